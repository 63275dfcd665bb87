//! Whose finding it is, and whether it is the right one: pure.

use anyhow::{Context as _, Result};
use serde_json::Value;

/// A finding as far as it is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// Whether it is a warning or worse.
    pub counts: bool,
    /// Kind of its scope.
    pub kind: String,
    /// Name of it, with the namespace where it has one.
    pub name: String,
    /// What explains it.
    pub caused_by: Vec<String>,
    /// Its one line.
    pub title: String,
}

/// The findings of `netdiag.diagnose/1`, as ranked.
///
/// # Errors
/// When one has another shape: a fault that cannot be read would be none.
pub fn findings(diagnosis: &Value) -> Result<Vec<Found>> {
    let of = |finding: &Value| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let scope = &finding["scope"];
        let netns = match &scope["netns"] {
            Value::Null => String::new(),
            number => number.as_u64()?.to_string(),
        };
        Some(Found {
            id: text(&finding["id"])?,
            counts: text(&finding["severity"])? != "info",
            kind: text(&scope["kind"])?,
            name: format!("{} {netns}", text(&scope["name"])?),
            caused_by: finding["caused_by"].as_array()?.iter().map(text).collect::<Option<_>>()?,
            title: text(&finding["title"])?,
        })
    };
    let all = diagnosis["findings"].as_array().context("a diagnosis without findings")?;
    let found = all
        .iter()
        .map(|finding| of(finding).with_context(|| format!("not a finding's shape: {finding}")));
    found.collect()
}

/// Whether a name has this in it, not as a part of a longer word.
fn names(name: &str, mark: &str) -> bool {
    let continues = |c: char| c.is_ascii_alphanumeric() || c == '-';
    name.match_indices(mark).any(|(at, _)| {
        let before = name[..at].chars().next_back();
        let after = name[at + mark.len()..].chars().next();
        // A mark that is the beginning of an address goes on.
        let open = mark.ends_with(['.', ':']);
        !before.is_some_and(continues) && (open || !after.is_some_and(continues))
    })
}

impl Found {
    /// Whether it concerns what has one of these marks.
    #[must_use]
    pub fn is_of(&self, marks: &[String]) -> bool {
        marks.iter().any(|mark| names(&self.name, mark))
    }

    /// Whether its scope is one of these: a kind, and one of the names.
    #[must_use]
    pub fn has_scope(&self, scopes: &[(String, Vec<String>)]) -> bool {
        scopes.iter().any(|(kind, any)| {
            *kind == self.kind && (any.is_empty() || any.iter().any(|one| names(&self.name, one)))
        })
    }
}

/// What was made of a scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the first finding above info is the one that was expected; of a healthy workload, whether there is none.
    pub right: bool,
    /// Whether its scope is, too.
    pub scoped: bool,
    /// Ids above info that the expected one does not explain.
    pub others: Vec<String>,
    /// Ids above info that it explains.
    pub symptoms: Vec<String>,
    /// Ids that explain what they have nothing to do with.
    pub wrong_causes: Vec<String>,
}

/// What must be found: an id, and scopes of which it must have one.
pub type Wanted = (String, Vec<(String, Vec<String>)>);

/// Judges the findings of one scenario: each of the wanted ones must be there with its scope, before all others
/// above info; of several it does not matter which is first. Where none is wanted, none must be there.
#[must_use]
pub fn judge(wanted: &[Wanted], found: &[&Found]) -> Judgement {
    let counting: Vec<_> = found.iter().filter(|found| found.counts).collect();
    let is_wanted = |id: &str| wanted.iter().any(|(wanted, _)| wanted == id);
    let is_there = |(id, scopes): &Wanted| {
        counting.iter().any(|found| found.id == *id && found.has_scope(scopes))
    };
    let first = counting.first().is_none_or(|first| is_wanted(&first.id));
    let named = wanted.iter().all(|(id, _)| counting.iter().any(|found| found.id == *id));
    let mut judgement = Judgement {
        right: first && named,
        scoped: wanted.iter().all(is_there),
        ..Judgement::default()
    };
    // The finding to act on is the right one in all that it says.
    if let ([(_, scopes)], Some(first)) = (wanted, counting.first()) {
        judgement.scoped &= first.has_scope(scopes);
    }
    for found in counting.iter().filter(|found| !is_wanted(&found.id)) {
        let explained = found.caused_by.iter().any(|cause| is_wanted(cause));
        if explained { &mut judgement.symptoms } else { &mut judgement.others }
            .push(found.id.clone());
    }
    judgement.wrong_causes = strange_causes(found);
    judgement
}

/// Causes of findings above info that are not among those of the same scenario: another one's fault.
fn strange_causes(found: &[&Found]) -> Vec<String> {
    let is_own = |cause: &str| found.iter().any(|found| found.id == cause);
    let causes = found.iter().filter(|found| found.counts).flat_map(|found| &found.caused_by);
    causes.filter(|cause| !is_own(cause)).cloned().collect()
}

/// Causes of faults that come of nothing: each is there by itself.
#[must_use]
pub fn causes_of_independent(wanted: &[Wanted], found: &[&Found]) -> Vec<String> {
    let is_wanted = |found: &Found| {
        wanted.iter().any(|(id, scopes)| found.id == *id && found.has_scope(scopes))
    };
    let faults = found.iter().filter(|found| found.counts && is_wanted(found));
    faults.flat_map(|found| found.caused_by.clone()).collect()
}

/// Whether each of the wanted ones stands behind the one before it, and says that it comes of that.
#[must_use]
pub fn is_chained(wanted: &[Wanted], found: &[&Found]) -> bool {
    let at = |id: &str| found.iter().position(|found| found.counts && found.id == id);
    wanted.windows(2).all(|pair| {
        let [(cause, _), (symptom, _)] = pair else { return false };
        at(cause).zip(at(symptom)).is_some_and(|(before, behind)| {
            before < behind && found[behind].caused_by.contains(cause)
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn diagnosis() -> Vec<Found> {
        findings(&json!({"findings": [
            {"id": "packet-loss", "severity": "warning", "title": "t",
             "scope": {"kind": "peer", "name": "10.77.1.2", "netns": 4_026_532_000_u64}, "caused_by": []},
            {"id": "high-rtt", "severity": "critical", "title": "t",
             "scope": {"kind": "peer", "name": "10.77.12.2"}, "caused_by": []},
            {"id": "slow-peer-application", "severity": "warning", "title": "t",
             "scope": {"kind": "process", "name": "web-1 (pid 7)"}, "caused_by": ["packet-loss"]},
            {"id": "reordering", "severity": "info", "title": "t",
             "scope": {"kind": "flow", "name": "10.77.1.1:4000 10.77.1.2:80"}, "caused_by": []},
        ]}))
        .expect("findings")
    }

    #[test]
    fn what_has_another_shape_is_not_passed_over() {
        let whole = json!({
            "id": "packet-loss", "severity": "warning", "title": "t",
            "scope": {"kind": "node", "name": "host", "netns": null}, "caused_by": [],
        });
        let all = |finding: &Value| findings(&json!({ "findings": [finding] }));
        assert_eq!(all(&whole).expect("a finding")[0].id, "packet-loss");
        for (key, value) in [
            ("id", json!(7)),
            ("severity", json!(null)),
            ("title", json!(null)),
            ("scope", json!("host")),
            ("scope", json!({"kind": "node", "name": "host", "netns": "other"})),
            ("caused_by", json!(null)),
            ("caused_by", json!([7])),
        ] {
            let mut broken = whole.clone();
            broken[key] = value;
            let said = all(&broken).expect_err("another shape").to_string();
            assert!(said.starts_with("not a finding's shape: {"), "{said}");
        }
        assert!(findings(&json!({})).is_err());
    }

    fn of<'a>(all: &'a [Found], marks: &[&str]) -> Vec<&'a Found> {
        let marks: Vec<_> = marks.iter().map(|mark| (*mark).to_owned()).collect();
        all.iter().filter(|found| found.is_of(&marks)).collect()
    }

    #[test]
    fn a_finding_is_of_whom_it_names() {
        let all = diagnosis();
        let ids = |marks: &[&str]| -> Vec<_> {
            of(&all, marks).iter().map(|found| found.id.clone()).collect()
        };
        assert_eq!(all.len(), 4);
        assert_eq!(ids(&["10.77.1."]), ["packet-loss", "reordering"]);
        assert_eq!(ids(&["10.77.12.", "10.77.2."]), ["high-rtt"]);
        assert_eq!(ids(&["web-1"]), ["slow-peer-application"]);
        assert_eq!(ids(&["4026532000"]), ["packet-loss"]);
        assert_eq!(ids(&["web", "wire1", "402653200"]), [""; 0]);
    }

    #[test]
    fn a_cause_is_the_scenarios_own() {
        let all = diagnosis();
        let wrong = |marks: &[&str]| judge(&[], &of(&all, marks)).wrong_causes;
        assert_eq!(wrong(&["10.77.1.", "web-1"]), [""; 0]);
        assert_eq!(wrong(&["10.77.12.", "web-1"]), ["packet-loss"], "another one's");
        let loss = ("packet-loss".to_owned(), vec![]);
        let slow = |name: &str| {
            let process = ("process".to_owned(), vec![name.to_owned()]);
            ("slow-peer-application".to_owned(), vec![process])
        };
        let mine = of(&all, &["10.77.1.", "web-1"]);
        let both = |slow: Wanted| causes_of_independent(&[loss.clone(), slow], &mine);
        assert_eq!(both(slow("web-1")), ["packet-loss"]);
        assert_eq!(both(slow("web-2")), [""; 0], "it is another process that is slow by itself");
    }

    #[test]
    fn the_first_above_info_counts_and_what_it_explains_is_no_other() {
        let all = diagnosis();
        let mine = of(&all, &["10.77.1.", "web-1"]);
        let wanted = |id: &str, name: &str| -> Wanted {
            (id.to_owned(), vec![("peer".to_owned(), vec![name.to_owned()])])
        };
        let judged = judge(&[wanted("packet-loss", "10.77.1.2")], &mine);
        assert!(judged.right && judged.scoped && judged.others.is_empty(), "{judged:?}");
        assert_eq!(judged.symptoms, ["slow-peer-application"]);
        assert!(!judge(&[wanted("packet-loss", "10.77.1.1")], &mine).scoped);
        let wrong = judge(&[wanted("reordering", "10.77.1.2")], &mine);
        assert!(!wrong.right);
        assert_eq!(wrong.others, ["packet-loss", "slow-peer-application"]);
        assert!(!judge(&[], &mine).right);
        assert!(judge(&[], &[]).right);
        let process = ("process".to_owned(), vec!["web-1".to_owned()]);
        let both = [
            ("slow-peer-application".to_owned(), vec![process]),
            wanted("packet-loss", "10.77.1.2"),
        ];
        let judged = judge(&both, &mine);
        assert!(judged.right && judged.scoped && judged.others.is_empty(), "{judged:?}");
        assert!(!judge(&[both[0].clone(), wanted("high-rtt", "10.77.1.2")], &mine).right);
        let [symptom, cause] = both;
        assert!(is_chained(&[cause.clone(), symptom.clone()], &mine));
        assert!(!is_chained(&[symptom.clone(), cause], &mine), "the other way round");
        assert!(!is_chained(&[wanted("high-rtt", "10.77.12.2"), symptom], &mine), "not found");
    }
}
