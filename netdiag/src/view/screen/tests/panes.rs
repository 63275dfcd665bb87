//! What single panes say.

use super::*;

/// Of one interval, looked at in a pane.
fn pane(shot: Shot, keys: &str) -> State {
    let mut state = begin(true);
    state.take(shot);
    press(&mut state, keys);
    state
}

#[test]
fn nothing_found_is_not_nothing_wrong() {
    let none = "no finding in 1s";
    let less = "no finding in 1s; 3 could not be looked for: press 7";
    for (withheld, expected) in [(0, none), (3, less)] {
        let shot = Shot { findings: Some(Vec::new()), withheld, ..shot(1, &statuses(), 0) };
        let screen = shown(&pane(shot, "2"), SMALL);
        let said: Vec<_> = screen.lines().filter(|line| line.starts_with("no finding")).collect();
        assert_eq!(said, [expected; 2], "above the pane and in it: {screen}");
    }
}

#[test]
fn findings_with_and_without_a_number_are_told() {
    let screen = shown(&watching(), SMALL);
    for line in ["packet-loss (10.0.0.2:443) 40 %: every", "dns-slow (node-1): names are slow"] {
        assert!(screen.contains(line), "{screen}");
    }
}

#[test]
fn what_has_no_room_above_says_where_it_is() {
    let mut shot = shot(1, &statuses(), 0);
    let one = |nth: u32| Finding { id: format!("finding-{nth}"), ..found(1).remove(0) };
    shot.findings = Some((0..5).map(one).collect());
    shot.snapshot.accounting.values_mut().for_each(|account| account.ring_full = 7);
    let screen = shown(&pane(shot, ""), SMALL);
    assert!(screen.contains("and 3 more (5 hold now); press 2"), "{screen}");
    assert!(screen.contains(" more lines of losses; press 7"), "{screen}");
}

#[test]
fn one_interval_is_one() {
    let screen = shown(&pane(shot(1, &statuses(), 0), "\n"), SMALL);
    assert!(screen.contains("opened for 1 interval"), "{screen}");
    assert!(!screen.contains("1 intervals"), "{screen}");
}

#[test]
fn failures_of_a_table_are_whole_and_without_a_limit_it_is_not_full() {
    let state = pane(shot(1, &statuses(), 0), "3");
    let screen = shown(&state, SMALL);
    let unlimited = "netns 4026532401 [                  ]     - 9 of - entries\n";
    assert!(screen.contains(unlimited), "{screen}");
    for size in [SMALL, Size { width: 40, ..SMALL }] {
        let buffer = draw(&state, size);
        let failures = "\n  1500 dropped  3 thrown out early\n";
        assert!(text(&buffer).contains(failures), "{}", text(&buffer));
        let red = styled_as(&buffer, |cell| cell.fg == Color::Red);
        assert!(red.contains(failures.trim()), "{red}");
    }
}

#[test]
fn drops_are_told_by_names_and_of_which_rows() {
    let mut shot = shot(1, &statuses(), 0);
    shot.interval.flows[0].comm = Some("a, b".to_owned());
    let mut state = pane(shot, "4ggg");
    let screen = shown(&state, SMALL);
    assert!(screen.contains("\nwhose they were\n"), "{screen}");
    assert!(screen.contains(" a, b/801\n"), "{screen}");
    press(&mut state, "/443\n");
    let screen = shown(&state, SMALL);
    assert!(screen.contains("whose they were, of the rows with \"443\" alone"), "{screen}");
}

#[test]
fn queries_of_flows_that_are_summed_up_are_told() {
    let none = "\nno name was asked for in the interval\n";
    let alone = "\n7 queries of flows that are summed up\n";
    let beside = "\nand 7 queries of flows that are summed up\n";
    for (is_listed, summed_up, expected) in
        [(false, 0, none), (false, 7, alone), (true, 7, beside), (true, 0, "\n10.0.0.53:53 ")]
    {
        let mut shot = shot(1, &statuses(), 0);
        shot.interval.flows.retain(|flow| is_listed || flow.key.peer_port != 53);
        shot.interval.other = counting(Frozen::default(), &[("dns.queries", summed_up)]);
        let screen = shown(&pane(shot, "5"), SMALL);
        assert!(screen.contains(expected), "{screen}");
        assert_eq!(screen.contains("summed up\n"), summed_up > 0, "{screen}");
    }
}

#[test]
fn what_is_left_out_is_said_on_every_screen() {
    let mut shot = shot(1, &statuses(), 0);
    shot.snapshot.own.shed = vec!["rtt".to_owned(), "turn".to_owned()];
    let mut state = begin(true);
    state.take(shot);
    for pane in ["1", "7"] {
        press(&mut state, pane);
        let third = shown(&state, SMALL).lines().nth(2).map(str::to_owned);
        assert_eq!(third.as_deref(), Some("SHED: rtt, turn"));
    }
}
