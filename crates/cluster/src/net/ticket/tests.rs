//! What is a ticket, and what is none.
use super::*;
use proptest::prelude::*;

fn tickets() -> impl Strategy<Value = Ticket> {
    let members = proptest::collection::vec(
        (any::<[u8; 32]>(), proptest::collection::vec(any::<(IpAddr, u16)>(), 1..=4)),
        1..=3,
    );
    (any::<[u8; 16]>(), members, any::<[u8; 32]>(), any::<u64>(), any::<bool>()).prop_map(
        |(cluster, members, secret, expires_ms, voter)| Ticket {
            cluster: ClusterId(cluster),
            members: members
                .into_iter()
                .map(|(key, addresses)| TicketMember {
                    key: NodeKey(key),
                    addresses: addresses.into_iter().map(SocketAddr::from).collect(),
                })
                .collect(),
            secret: TicketSecret(secret),
            expires_ms,
            role: if voter { JoinRole::Voter } else { JoinRole::Learner },
        },
    )
}

fn ticket() -> Ticket {
    Ticket {
        cluster: ClusterId([1; 16]),
        members: vec![TicketMember {
            key: NodeKey([2; 32]),
            addresses: vec![([10, 0, 0, 1], 4433).into()],
        }],
        secret: TicketSecret([3; 32]),
        expires_ms: 10_000,
        role: JoinRole::Voter,
    }
}

#[test]
fn what_is_wrong_is_told_apart() {
    let text = ticket().to_string();
    assert!(text.starts_with("swjoin1"), "{text}");
    assert_eq!(text.parse(), Ok(ticket()));
    assert_eq!(format!(" {text}\n").parse(), Ok(ticket()), "pasted with blanks around");
    for not in ["", "swjoin", "hello", "swjoinx", &"swjoin1".repeat(500)] {
        assert_eq!(not.parse::<Ticket>(), Err(TicketError::NotATicket), "{not}");
    }
    let other = text.replacen("swjoin1", "swjoin2", 1);
    assert_eq!(other.parse::<Ticket>(), Err(TicketError::OtherVersion { found: "2".to_owned() }));
    for damaged in [
        &text[..text.len() - 1],
        &text[..20],
        "swjoin1",
        &text.to_uppercase().replacen("SWJOIN1", "swjoin1", 1),
    ] {
        let found = damaged.parse::<Ticket>();
        assert!(matches!(found, Err(TicketError::Damaged { .. })), "{damaged}: {found:?}");
    }
    assert_eq!(ticket().check(9_999), Ok(()));
    assert_eq!(ticket().check(13_500), Err(TicketError::Expired { ago_seconds: 3 }));
    assert_eq!(ticket().check(10_000), Err(TicketError::Expired { ago_seconds: 0 }));
}

#[test]
fn a_ticket_without_a_place_to_go_to_is_none() {
    let nobody = Ticket { members: Vec::new(), ..ticket() };
    assert!(matches!(nobody.check(0), Err(TicketError::Damaged { .. })));
    assert!(matches!(nobody.to_string().parse::<Ticket>(), Err(TicketError::Damaged { .. })));
}

#[test]
fn the_secret_is_not_printed_and_the_names_of_it_differ() {
    let ticket = ticket();
    assert!(!format!("{ticket:?}").contains("3, 3"), "{ticket:?}");
    assert_ne!(ticket.secret.id().0[..], ticket.secret.verifier()[..16]);
}

proptest! {
    #[test]
    fn a_ticket_survives_its_text(ticket in tickets()) {
        let text = ticket.to_string();
        prop_assert!(text.len() <= MAX_TEXT, "{}", text.len());
        prop_assert_eq!(text.parse::<Ticket>(), Ok(ticket));
    }

    #[test]
    fn one_changed_letter_is_noticed(ticket in tickets(), at in 7..700_usize, to in "[a-z2-7]") {
        let mut text = ticket.to_string();
        let at = 7 + at % (text.len() - 7);
        prop_assume!(text[at..=at] != to);
        text.replace_range(at..=at, &to);
        prop_assert!(text.parse::<Ticket>().is_err());
    }

    #[test]
    fn no_text_does_more_than_be_refused(text in "(swjoin1)?[a-z2-7]{0,200}") {
        prop_assert!(text.parse::<Ticket>().is_err());
    }
}
