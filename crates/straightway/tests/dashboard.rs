//! The dashboard in a real browser (headless Chromium, driven through its WebDriver): numbers move under load, a purge
//! from the page removes the object, and the loss of the node is shown and recovered from.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod support;

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use straightway::config::settings::{
    ClusterSettings, DEFAULT_LOG_ENTRIES, DEFAULT_REPAIR_AFTER, Secret,
};
use straightway_cluster::Start;
use support::{Addresses, TestNode};
use tokio::net::TcpStream;

/// Generous: a browser takes its time.
const PATIENCE: Duration = Duration::from_mins(1);

struct Browser {
    driver: Child,
    port: u16,
    session: String,
    profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}

impl Browser {
    /// `None`, with a visible line, where there is no Chromium.
    async fn start() -> Option<Self> {
        let spawned = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut driver) = spawned else {
            println!(
                "SKIP chromedriver is not installed; the dashboard was not tried in a browser"
            );
            return None;
        };
        let said = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = said
            .map_while(Result::ok)
            .find_map(|line| {
                line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse().ok()
            })
            .expect("its port");
        let profile = tempfile::tempdir().expect("a folder");
        let mut browser = Self { driver, port, session: String::new(), profile };
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1200,900",
        ];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", browser.profile.path().display()));
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": arguments } } } });
        let session = browser.send("POST", "/session", &wanted).await;
        session["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        Some(browser)
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut client = support::Client::new(
            TcpStream::connect(("127.0.0.1", self.port)).await.expect("connected"),
        );
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        client.send(head).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()["value"].clone()
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        self.send("POST", &format!("/session/{}/{path}", self.session), &body).await
    }

    /// The value of a piece of JavaScript.
    async fn run(&self, script: &str) -> Value {
        self.command("execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Waits until a piece of JavaScript says true.
    async fn wait(&self, what: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if self.run(&format!("return !!({what})")).await == true {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what}\n{}",
                self.run("return document.body.innerText").await
            );
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_person_sees_what_happens_and_can_act() {
    let Some(browser) = Browser::start().await else { return };
    let addresses = Addresses::hold();
    let node = TestNode::start_with(|settings| addresses.give(settings)).await;
    node.put("kept/1", &vec![7; 100_000]).await;
    node.put("gone/1", b"x").await;
    let url = format!("http://{}/", node.admin());
    browser.command("url", json!({ "url": url })).await;
    browser.wait("document.getElementById('state').dataset.state === 'open'").await;
    browser.wait("document.getElementById('objects').textContent === '2'").await;

    // Numbers move while requests are made.
    let requests = async {
        loop {
            for _ in 0..20 {
                node.get("kept/1", "").await;
            }
            node.get("missing", "").await;
        }
    };
    let seen = async {
        browser
            .wait("Number(document.getElementById('requests').textContent.replaceAll(',', '')) > 0")
            .await;
        browser.wait("/[1-9]/.test(document.getElementById('served').textContent)").await;
        browser.wait("/%/.test(document.getElementById('hit_ratio').textContent)").await;
        browser.wait("document.querySelector('[data-chart=requests] polyline').getAttribute('points').split(' ').length > 1").await;
        browser.wait("document.querySelectorAll('#pools tbody tr').length >= 2").await;
    };
    tokio::select! { () = requests => {}, () = seen => {} }

    // What is stored now is listed; the filter holds back what does not fit.
    node.put("live/1", b"x").await;
    browser.wait("[...document.querySelectorAll('#events .stored code')].some((e) => e.textContent === 'live/1')").await;
    browser.run("document.getElementById('filter').value = 'other/'").await;
    node.put("live/2", b"x").await;
    node.put("other/1", b"x").await;
    browser.wait("[...document.querySelectorAll('#events code')].some((e) => e.textContent === 'other/1')").await;
    assert_eq!(browser.run("return [...document.querySelectorAll('#events code')].some((e) => e.textContent === 'live/2')").await, false);
    browser.run("document.getElementById('filter').value = ''").await;

    // A purge from the page.
    browser.run("document.getElementById('purge-scope').value = 'prefix'; document.getElementById('purge-value').value = 'gone/'; document.querySelector('#purge button').click()").await;
    browser.wait("document.getElementById('purge-said').textContent === '1 purged'").await;
    assert_eq!(node.get("gone/1", "").await.status, 404);
    browser.wait("[...document.querySelectorAll('#events .purged code')].some((e) => e.textContent === 'gone/*')").await;

    // Configuration.
    browser.run("document.getElementById('mmap_threshold').value = '131072'; document.querySelector('#config button').click()").await;
    browser.wait("document.getElementById('config-said').textContent === 'in force'").await;
    assert_eq!(
        node.admin_client().await.get("api/config", "").await.json()["mmap_threshold"],
        131_072
    );

    looks_right(&browser, &url).await;

    // The node goes away, which is shown; it comes back, and so do the numbers.
    let (running, dir) = node.into_node();
    running.stop().await.expect("stopped");
    browser.wait("document.getElementById('state').dataset.state === 'lost'").await;
    let mut settings = support::settings(&dir);
    addresses.give(&mut settings);
    let again = straightway::node::Node::start(settings).await.expect("started again");
    browser.wait("document.getElementById('state').dataset.state === 'open'").await;
    again.state().cache().store("back/1", bytes::Bytes::from_static(b"x")).await.expect("stored");
    browser.wait("[...document.querySelectorAll('#events code')].some((e) => e.textContent === 'back/1')").await;
    browser.send("DELETE", &format!("/session/{}", browser.session), &Value::Null).await;
    again.stop().await.expect("stopped");
}

#[tokio::test]
async fn the_members_of_a_cluster_are_shown_and_can_be_acted_on() {
    let Some(browser) = Browser::start().await else { return };
    let alone = TestNode::start().await;
    browser.command("url", json!({ "url": format!("http://{}/", alone.admin()) })).await;
    browser.wait("document.getElementById('state').dataset.state === 'open'").await;
    browser.wait("document.getElementById('pools').tBodies[0].rows.length > 0").await;
    assert_eq!(browser.run("return document.getElementById('cluster').hidden").await, true);
    alone.stop().await;

    let node = TestNode::start_with(|settings| {
        settings.token = Some(Secret::new("s3cret"));
        settings.cluster = Some(ClusterSettings {
            start: Start::First,
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            advertise: Vec::new(),
            discover: false,
            copies: 1,
            repair_after: DEFAULT_REPAIR_AFTER,
            compress: None,
            log_entries: DEFAULT_LOG_ENTRIES,
        });
    })
    .await;
    let url = format!("http://{}/", node.admin());
    browser.command("url", json!({ "url": url })).await;
    browser.run("const token = document.getElementById('token'); token.value = 's3cret'; token.onchange()").await;
    browser.wait("!document.getElementById('cluster').hidden").await;
    browser.wait("document.getElementById('cluster-leader').textContent.endsWith('(1)')").await;
    browser.wait("document.getElementById('cluster-lease').dataset.state === 'good'").await;
    browser
        .wait("document.querySelector('#members [data-id=\"1\"]').textContent.includes('leader')")
        .await;
    // A leader is neither handed leadership nor let vote.
    let offered = "return [...document.querySelectorAll('#members button')].filter((e) => !e.hidden).map((e) => e.textContent)";
    assert_eq!(browser.run(offered).await, json!(["Remove"]));

    // What cannot be is said; whoever does not confirm does nothing.
    browser.run("window.confirm = () => false; document.querySelector('#members button:not([hidden])').click()").await;
    assert_eq!(browser.run("return document.getElementById('cluster-said').textContent").await, "");
    browser.run("window.confirm = () => true; document.querySelector('#members button:not([hidden])').click()").await;
    browser
        .wait("document.getElementById('cluster-said').textContent.includes('only voter')")
        .await;
    browser.run("document.getElementById('ticket').click()").await;
    browser
        .wait(
            "document.getElementById('ticket-text').value.startsWith('straightway serve --join ')",
        )
        .await;
    looks_right(&browser, &url).await;

    // The numbers of a member stand beside the node's.
    let stats = node.admin_client().await.get("api/stats", "").await.json();
    assert_eq!(
        (&stats["cluster"]["is_leader"], &stats["cluster"]["voters"]),
        (&1.into(), &1.into())
    );
    let metrics = node.admin_client().await.get("metrics", "").await;
    for line in [
        "straightway_cluster_is_leader 1",
        "straightway_cluster_refused_total{reason=\"strangers\"} 0",
    ] {
        assert!(metrics.text().contains(line), "{line}\n{}", metrics.text());
    }
    browser.send("DELETE", &format!("/session/{}", browser.session), &Value::Null).await;
    node.stop().await;
}

/// Light and dark, narrow screens, keyboard, and nothing from elsewhere.
async fn looks_right(browser: &Browser, url: &str) {
    let background = "return getComputedStyle(document.body).backgroundColor";
    let scheme = |value: &str| json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": [{ "name": "prefers-color-scheme", "value": value }] } });
    browser.command("goog/cdp/execute", scheme("light")).await;
    let light = browser.run(background).await;
    browser.command("goog/cdp/execute", scheme("dark")).await;
    assert_ne!(browser.run(background).await, light);
    let narrow = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": { "width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true } });
    browser.command("goog/cdp/execute", narrow).await;
    assert_eq!(
        browser.run("return document.documentElement.scrollWidth <= 360").await,
        true,
        "no sideways scrolling"
    );
    browser
        .command(
            "goog/cdp/execute",
            json!({ "cmd": "Emulation.clearDeviceMetricsOverride", "params": {} }),
        )
        .await;
    let unlabelled = "return [...document.querySelectorAll('input, select')].filter((e) => !e.labels.length).length";
    assert_eq!(browser.run(unlabelled).await, 0);
    let focusable = "const all = [...document.querySelectorAll('a, input, select, button, [tabindex]')]; \
                     return all.every((e) => { e.focus(); return document.activeElement === e || e.disabled || e.closest('[hidden]') })";
    assert_eq!(browser.run(focusable).await, true, "all by keyboard");
    let elsewhere = format!(
        "return performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('{url}') && !e.name.startsWith('data:')).map((e) => e.name)"
    );
    assert_eq!(browser.run(&elsewhere).await, json!([]), "nothing is loaded from elsewhere");
}

/// A page in which the feed's sockets, clock and timers are a test's own.
const FAKES: &str = r#"
const done = arguments[arguments.length - 1];
let clock = 1_000_000;
const timers = new Map();
const sockets = [];
window.setTimeout = (run, ms) => { const id = timers.size + 1; timers.set(id, { run, ms }); return id; };
window.clearTimeout = (id) => timers.delete(id);
Date.now = () => clock;
Math.random = () => 1;
window.WebSocket = class {
  constructor(url) { this.url = String(url); sockets.push(this); }
  close() {}
  say(event) { this.onmessage({ data: JSON.stringify(event) }); }
};
// The pause until the next attempt, which is then made.
const lose = () => {
  timers.clear();
  sockets.at(-1).onclose();
  const [{ run, ms }] = timers.values();
  run();
  return ms;
};
import(location.origin + "/feed.js").then(({ Feed }) => {
"#;

async fn in_a_page(browser: &Browser, script: &str) -> Value {
    let script = format!("{FAKES}{script}\n}}).catch((error) => done(String(error)));");
    browser.command("execute/async", json!({ "script": script, "args": [] })).await
}

#[tokio::test]
async fn the_feed_of_a_page_backs_off_and_is_told_each_event_once() {
    let Some(browser) = Browser::start().await else { return };
    let node = TestNode::start().await;
    // A page of the node's that has no feed of its own.
    let url = format!("http://{}/api", node.admin());
    browser.command("url", json!({ "url": url })).await;
    // A connection was good, and the node is down: the pauses grow all the same.
    let pauses = "new Feed('/events'); sockets[0].onopen(); clock += 120_000; \
                  done([lose(), lose(), lose(), lose()]);";
    assert_eq!(in_a_page(&browser, pauses).await, json!([500, 1000, 2000, 4000]));
    // Who wants only some kinds gets the numbers that show that the node is there, and does not hear of them.
    let kinds = "const heard = []; \
                 new Feed('/events?kind=stored', { onEvent: (event) => heard.push(event.kind) }); \
                 const [socket] = sockets; \
                 socket.say({ kind: 'stats', offset: 5, epoch: 1 }); \
                 socket.say({ kind: 'stored', offset: 5, key: 'k' }); \
                 lose(); \
                 done([socket.url.split('?')[1], heard, sockets[1].url.split('?')[1]]);";
    assert_eq!(
        in_a_page(&browser, kinds).await,
        json!(["kind=stored&kind=stats", ["stored"], "kind=stored&kind=stats&from=6&epoch=1"])
    );
    // The purge that overtook in the node's last life is not the event of that offset in this one.
    let restart = "const heard = []; \
                   const feed = new Feed('/events', { onEvent: ({ kind, offset }) => heard.push(kind + offset) }); \
                   const say = (event) => sockets[0].say(event); \
                   say({ kind: 'purged', offset: 9, urgent: true }); \
                   say({ kind: 'gap', offset: 8, reason: 'restarted' }); \
                   say({ kind: 'stored', offset: 8 }); \
                   say({ kind: 'stored', offset: 9 }); \
                   feed.close(); \
                   say({ kind: 'stored', offset: 10 }); \
                   done(heard);";
    assert_eq!(
        in_a_page(&browser, restart).await,
        json!(["purged9", "gap8", "stored8", "stored9"])
    );
    browser.send("DELETE", &format!("/session/{}", browser.session), &Value::Null).await;
    node.stop().await;
}

#[tokio::test]
async fn a_page_without_the_token_says_that_it_is_missing() {
    let Some(browser) = Browser::start().await else { return };
    let node = TestNode::start_with(|settings| settings.token = Some(Secret::new("s3cret"))).await;
    browser.command("url", json!({ "url": format!("http://{}/", node.admin()) })).await;
    browser.wait("document.getElementById('state').textContent.includes('token')").await;
    browser.run("const token = document.getElementById('token'); token.value = 's3cret'; token.onchange()").await;
    browser.wait("document.getElementById('state').dataset.state === 'open'").await;
    // What keys hold is text, whatever it looks like.
    let key = "<img src=x onerror=document.title=1>";
    let cache = node.node().state().cache();
    cache.store(key, bytes::Bytes::from_static(b"x")).await.expect("stored");
    browser.wait("[...document.querySelectorAll('#events code')].some((e) => e.textContent.startsWith('<img'))").await;
    assert_eq!(browser.run("return document.querySelectorAll('#events img').length").await, 0);
    browser.send("DELETE", &format!("/session/{}", browser.session), &Value::Null).await;
    node.stop().await;
}
