//! Rows in the order of their last use: two lists linked by slot number, every step O(1).

/// Which list a slot is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the table.
    Live,
    /// Left the table, kept for the total of the run and for samples that arrive late.
    Left,
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    newer: u32,
    older: u32,
    place: Option<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    newest: u32,
    oldest: u32,
    len: usize,
}

/// The two lists.
#[derive(Debug)]
pub(super) struct Recency {
    links: Vec<Link>,
    ends: [Ends; 2],
}

impl Default for Recency {
    fn default() -> Self {
        Self { links: Vec::new(), ends: [Ends { newest: NONE, oldest: NONE, len: 0 }; 2] }
    }
}

impl Recency {
    /// Makes a slot the newest of a list, wherever it was before.
    pub(super) fn promote(&mut self, slot: u32, place: Place) {
        if self.place(slot) == Some(place) && self.ends[place as usize].newest == slot {
            return;
        }
        self.remove(slot);
        let index = slot as usize;
        if index >= self.links.len() {
            self.links.resize(index + 1, Link { newer: NONE, older: NONE, place: None });
        }
        let ends = &mut self.ends[place as usize];
        let older = ends.newest;
        ends.newest = slot;
        ends.len += 1;
        if older == NONE {
            ends.oldest = slot;
        } else {
            self.links[older as usize].newer = slot;
        }
        self.links[index] = Link { newer: NONE, older, place: Some(place) };
    }

    /// Takes a slot out of its list, if it is in one.
    pub(super) fn remove(&mut self, slot: u32) {
        let Some(Link { newer, older, place: Some(place) }) =
            self.links.get(slot as usize).copied()
        else {
            return;
        };
        let ends = &mut self.ends[place as usize];
        ends.len -= 1;
        if newer == NONE {
            ends.newest = older;
        } else {
            self.links[newer as usize].older = older;
        }
        if older == NONE {
            ends.oldest = newer;
        } else {
            self.links[older as usize].newer = newer;
        }
        self.links[slot as usize].place = None;
    }

    /// Where a slot is.
    pub(super) fn place(&self, slot: u32) -> Option<Place> {
        self.links.get(slot as usize).and_then(|link| link.place)
    }

    /// The slot that was promoted the longest time ago.
    pub(super) fn oldest(&self, place: Place) -> Option<u32> {
        let oldest = self.ends[place as usize].oldest;
        (oldest != NONE).then_some(oldest)
    }

    /// Slots in a list.
    pub(super) fn len(&self, place: Place) -> usize {
        self.ends[place as usize].len
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Promote(u32, Place),
        Remove(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..12u32).prop_map(|slot| Step::Promote(slot, Place::Live)),
            (0..12u32).prop_map(|slot| Step::Promote(slot, Place::Left)),
            (0..12u32).prop_map(Step::Remove),
        ]
    }

    proptest! {
        #[test]
        fn keeps_the_order_of_a_plain_list(steps in vec(step(), 0..200)) {
            let mut recency = Recency::default();
            let mut model = [Vec::new(), Vec::new()];
            for step in steps {
                let (Step::Promote(slot, _) | Step::Remove(slot)) = step;
                for list in &mut model {
                    list.retain(|&other| other != slot);
                }
                match step {
                    Step::Promote(slot, place) => {
                        recency.promote(slot, place);
                        model[place as usize].push(slot);
                    }
                    Step::Remove(slot) => recency.remove(slot),
                }
                for place in [Place::Live, Place::Left] {
                    let list = &model[place as usize];
                    prop_assert_eq!(recency.oldest(place), list.first().copied());
                    prop_assert_eq!(recency.len(place), list.len());
                    prop_assert!(list.iter().all(|&slot| recency.place(slot) == Some(place)));
                }
            }
            for place in [Place::Live, Place::Left] {
                for &slot in &model[place as usize] {
                    prop_assert_eq!(recency.oldest(place), Some(slot));
                    recency.remove(slot);
                }
            }
        }
    }
}
