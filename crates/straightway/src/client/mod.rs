//! What `put`, `get` and their kin speak to a node with; usable as a library.
mod connection;
mod feed;
mod kept;
mod message;
mod place;
mod transfer;

pub use connection::{Body, Client, ClientError, Reply};
pub use feed::FeedClient;
pub use kept::{Answered, Kept};
pub use message::{FeedMessage, FeedView};
pub use transfer::{
    Fetched, Progress, PutOptions, STANDARD_OUTPUT, fetch_to_file, fetch_to_writer, put_file,
    put_stdin,
};
