//! A node and a subscriber of its feed in one process: what is stored, purged and counted, as it happens.
//! `cargo run -p straightway --example feed`
use std::net::SocketAddr;

use bytes::Bytes;
use straightway::cache::{Purge, StoreOptions};
use straightway::client::{Client, FeedClient, FeedView};
use straightway::codec::event::{Kind, Subscribe};
use straightway::config::settings::NodeSettings;
use straightway::node::Node;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let settings = NodeSettings {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        admin: SocketAddr::from(([127, 0, 0, 1], 0)),
        cache: dir.path().join("example.cache"),
        size: 64 << 20,
        ..NodeSettings::default()
    };
    let node = Node::start(settings).await?;
    let cache = node.state().cache().clone();

    let admin = Client::new(&format!("http://{}", node.ready().admin), None, None)?;
    // From the first event on: what happened before the subscriber came is told, too.
    let wanted = Subscribe { prefix: "models/".into(), from: Some(1), ..Subscribe::default() };
    let mut feed = FeedClient::new(admin, wanted)?;

    let tags = vec!["project:7b".to_owned()];
    let options = StoreOptions { tags, ..StoreOptions::default() };
    cache.store_with("models/7b", Bytes::from_static(b"weights"), options).await?;
    cache.store("media/1", Bytes::from_static(b"not watched")).await?;
    cache.purge(Purge::Tag("project:7b".to_owned())).await?;

    loop {
        let message = feed.next().await?;
        match message.view()? {
            // Read where it lies: no copy, no allocation.
            FeedView::Event(event) => {
                println!("{:4} {} {}", message.offset(), Kind::from(event.kind).name(), event.key);
                if Kind::from(event.kind) == Kind::Purged {
                    break;
                }
            }
            FeedView::Stats(stats) => println!("     {} objects", stats.objects),
            FeedView::Gap(gap) => println!("     {} to {} are missing", gap.from, gap.to),
            FeedView::Json(json) => println!("     {json}"),
        }
    }
    drop(feed);
    Ok(node.stop().await?)
}
