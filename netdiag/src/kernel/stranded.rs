//! Samples that a CPU gathered and could not hand over before it was switched off.

use std::collections::BTreeSet;

/// CPUs that are off and hold samples. No program can be run there, so these wait until the CPU is back.
#[derive(Debug, Default)]
pub(super) struct Stranded {
    cpus: BTreeSet<u32>,
    problem: Option<String>,
}

impl Stranded {
    /// Which they are now.
    pub(super) fn are(&mut self, cpus: BTreeSet<u32>) {
        if !cpus.is_subset(&self.cpus) {
            let each: Vec<_> = cpus.iter().map(u32::to_string).collect();
            let (which, is) = match each.as_slice() {
                [one] => (format!("CPU {one}"), "is"),
                all => (format!("CPUs {}", all.join(", ")), "are"),
            };
            self.problem = Some(format!(
                "{which} {is} off and had samples that were not handed over: these are `pending` until that \
                 changes, and `missed` if the run ends before"
            ));
        }
        self.cpus = cpus;
    }

    /// What there is to say of them, once as long as it lasts.
    pub(super) fn problem(&mut self) -> Option<String> {
        self.problem.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_said_once() {
        let mut stranded = Stranded::default();
        let mut said = |cpus: &[u32]| {
            stranded.are(cpus.iter().copied().collect());
            stranded.problem()
        };
        assert_eq!(said(&[]), None);
        assert!(said(&[1]).is_some_and(|line| line.starts_with("CPU 1 is off and had samples")));
        assert_eq!(said(&[1]), None);
        assert!(said(&[1, 3]).is_some_and(|line| line.starts_with("CPUs 1, 3 are off")));
        assert_eq!(said(&[3]), None, "one is back");
        assert!(said(&[1, 3]).is_some(), "and off again");
    }
}
