//! What single events add to: counts of snapshots, named by what the events say.

/// A count that events of a kind add to.
#[derive(Debug, PartialEq, Eq)]
pub struct Counted {
    /// Its name in snapshots (`resets_received`), or what stands there before the key (`drops.`, `drops.at:`).
    name: &'static str,
    /// The field that says the key.
    key: Option<&'static str>,
    /// A field, and what it says of events that add to it; none where all do.
    when: Option<(&'static str, &'static str)>,
}

impl Counted {
    /// A count with a name of its own.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, key: None, when: None }
    }

    /// A count in a group, by what the field `key` says. What says nothing there does not add to it.
    #[must_use]
    pub const fn by(name: &'static str, key: &'static str) -> Self {
        Self { name, key: Some(key), when: None }
    }

    /// The same for events that say this in that field alone; of a flag that is set, its name.
    #[must_use]
    pub const fn when(self, field: &'static str, says: &'static str) -> Self {
        Self { when: Some((field, says)), ..self }
    }

    /// The name in snapshots of what an event adds to, none where that is not this count; `said` is the text of a field,
    /// none where that is not known.
    #[must_use]
    pub fn of<'a>(&self, said: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
        let Self { name, key, when } = *self;
        if when.is_some_and(|(field, says)| said(field) != Some(says)) {
            return None;
        }
        let Some(key) = key else { return Some(name.to_owned()) };
        // A place counts by its function, of which it may be a part: `tcp_v4_rcv.cold+0x100`.
        let key = said(key)?.split(['+', '.']).next()?;
        Some(format!("{name}{key}"))
    }

    /// The fields that it takes.
    #[cfg(test)]
    pub(crate) fn fields(&self) -> impl Iterator<Item = &'static str> {
        self.key.into_iter().chain(self.when.map(|(field, _)| field))
    }

    /// Its name, or what stands before the key.
    #[cfg(test)]
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(counted: &Counted, fields: &[(&str, &'static str)]) -> Option<String> {
        counted.of(|name| fields.iter().find(|(field, _)| *field == name).map(|(_, says)| *says))
    }

    #[test]
    fn a_name_is_made_of_what_is_known() {
        let place = Counted::by("drops.at:", "location");
        for (location, expected) in [
            ("nf_hook_slow+0x4", "drops.at:nf_hook_slow"),
            ("tcp_v4_rcv.cold+0x100", "drops.at:tcp_v4_rcv"),
            ("nf_conntrack_in+0x1 [nf_conntrack]", "drops.at:nf_conntrack_in"),
        ] {
            assert_eq!(of(&place, &[("location", location)]).as_deref(), Some(expected));
        }
        assert_eq!(of(&place, &[("reason", "NO_SOCKET")]), None);
    }

    #[test]
    fn who_says_something_else_adds_to_another() {
        let received = Counted::new("resets_received").when("direction", "received");
        let found = of(&received, &[("direction", "received")]);
        assert_eq!(found.as_deref(), Some("resets_received"));
        assert_eq!(of(&received, &[("direction", "sent")]), None);
        assert_eq!(of(&received, &[]), None);
    }
}
