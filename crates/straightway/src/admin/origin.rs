//! Which pages may talk to the admin listener.
//!
//! A browser sends any page's requests to 127.0.0.1 and says in `Origin` whose they are; a WebSocket or a form is not
//! held back by anything else. So: no `Origin` (no browser), our own, or one that was listed.
use http::header::{HOST, HeaderMap, ORIGIN};
use http::{StatusCode, Uri};

use crate::http::problem::Problem;
use crate::state::NodeState;

/// Refuses a request of a foreign page.
pub(super) fn check(node: &NodeState, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok();
    match origin {
        Some(origin)
            if is_own(origin, host) || node.origins.iter().any(|known| known == origin) =>
        {
            Ok(())
        }
        _ => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "this page is not known to the node; list its origin with --origins",
        )),
    }
}

fn is_own(origin: &str, host: Option<&str>) -> bool {
    let authority = origin.parse::<Uri>().ok().and_then(|origin| origin.authority().cloned());
    match (authority, host) {
        (Some(authority), Some(host)) => authority.as_str().eq_ignore_ascii_case(host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_own;

    #[test]
    fn a_page_is_our_own_if_it_came_from_here() {
        assert!(is_own("http://127.0.0.1:8081", Some("127.0.0.1:8081")));
        assert!(is_own("https://node.example", Some("Node.example")));
        for (origin, host) in [
            ("http://evil.example", Some("127.0.0.1:8081")),
            ("http://127.0.0.1:8082", Some("127.0.0.1:8081")),
            ("null", Some("127.0.0.1:8081")),
            ("http://127.0.0.1:8081", None),
        ] {
            assert!(!is_own(origin, host), "{origin}");
        }
    }
}
