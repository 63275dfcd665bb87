//! The fault lab.

use netdiag_tests::lab::act;

/// What the actors of the lab are: this very test, in a process of its own (`lab::act`).
#[test]
fn act() {
    act::perform();
}
