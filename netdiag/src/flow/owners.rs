//! Whom flows belong to, each in memory once: of a hundred thousand flows there are few owners.

use std::sync::Arc;

use super::Who;

/// Owners that are remembered.
const MET: usize = 1_024;

/// Owners that were met of late, the last one of all pids that share a place.
#[derive(Debug)]
pub(super) struct Owners(Vec<Option<Arc<Who>>>);

impl Default for Owners {
    fn default() -> Self {
        Self(vec![None; MET])
    }
}

impl Owners {
    /// Puts an equal one that was met of late in the place of one that nobody else has.
    pub(super) fn share(&mut self, who: &mut Option<Arc<Who>>) {
        let Some(who) = who.as_mut().filter(|who| Arc::strong_count(who) == 1) else { return };
        let met = &mut self.0[who.pid.unwrap_or_default() as usize % MET];
        match met {
            Some(met) if met == who => *who = Arc::clone(met),
            _ => *met = Some(Arc::clone(who)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ones_are_the_same_and_others_are_not() {
        let mut owners = Owners::default();
        let mut met = |pid, comm: &str| {
            let comm = Some(comm.to_owned());
            let mut who = Some(Arc::new(Who { pid: Some(pid), comm, place: None }));
            owners.share(&mut who);
            who.expect("it stays one")
        };
        let (one, same, renamed, again) = (met(7, "a"), met(7, "a"), met(7, "b"), met(7, "a"));
        assert!(Arc::ptr_eq(&one, &same) && one.comm.as_deref() == Some("a"));
        assert_eq!((renamed.pid, renamed.comm.as_deref()), (Some(7), Some("b")));
        assert_eq!(again, one);
        let colliding = met(7 + MET as u32, "a");
        assert_eq!(colliding.pid, Some(7 + MET as u32));
    }
}
