//! Which pages may talk to the admin listener.
//!
//! A browser sends any page's requests to 127.0.0.1 and says in `Origin` whose they are; a WebSocket or a form is not
//! held back by anything else. So: no `Origin` (no browser), our own, or one that was listed.
//!
//! A page that came from elsewhere is its own if its name leads here by now (DNS rebinding). Where no token stands in
//! the way, a page on this machine is therefore our own only under an address or as `localhost`.
use std::net::IpAddr;

use http::header::{HOST, HeaderMap, ORIGIN};
use http::uri::Authority;
use http::{StatusCode, Uri};

use crate::http::problem::Problem;
use crate::state::NodeState;

/// Refuses a request of a foreign page.
pub(super) fn check(
    node: &NodeState,
    headers: &HeaderMap,
    peer: Option<IpAddr>,
) -> Result<(), Problem> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok();
    let named = |host: &str| {
        let local = peer.is_none_or(|peer| peer.to_canonical().is_loopback());
        node.token.is_some() || !local || is_unambiguous(host)
    };
    let own = |origin: &str| is_own(origin, host) && host.is_some_and(named);
    match origin {
        Some(origin) if own(origin) || node.origins.iter().any(|known| known == origin) => Ok(()),
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

/// Whether nobody can have a host lead elsewhere: an address, or this machine's own name.
fn is_unambiguous(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::{is_own, is_unambiguous};

    #[test]
    fn a_name_that_anybody_can_have_lead_here_is_not_ours() {
        for host in ["127.0.0.1:8081", "[::1]:8081", "LOCALHOST:8081", "a.localhost", "10.0.0.1"] {
            assert!(is_unambiguous(host), "{host}");
        }
        for host in ["evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert!(!is_unambiguous(host), "{host}");
        }
    }

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
