//! What a finding tells.

use std::cmp::Ordering;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Limits, Scope, Threshold};
use crate::{snapshot::Owner, watched::Watched};

/// How bad it is.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing has to be done.
    Info,
    /// It makes something slow, or soon will.
    Warning,
    /// Something fails, or hardly works.
    Critical,
}

impl Severity {
    /// As in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Unit of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// Seconds.
    S,
    /// A part of a whole, 0 to 1.
    Ratio,
    /// So many times another value.
    Times,
    /// Bytes.
    Bytes,
    /// Bytes each second.
    BytesPerSecond,
    /// So many.
    Count,
    /// So many each second.
    PerSecond,
}

/// A number that speaks for a finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// What it is.
    pub metric: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
    /// What it was compared with, null where it only goes with the others.
    pub threshold: Option<f64>,
    /// The time that it is from, in seconds.
    pub window_s: f64,
}

/// A conclusion with its evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What kind of conclusion it is.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// How sure it is, 0 to 1.
    pub confidence: f64,
    /// The claim, one line.
    pub title: String,
    /// Why that is so, and what it does.
    pub explanation: String,
    /// What it concerns.
    pub scope: Scope,
    /// The numbers, the one that decided first.
    pub evidence: Vec<Evidence>,
    /// What it is not, and what shows that.
    pub ruled_out: Vec<String>,
    /// What could not be seen and might change it.
    pub not_observable: Vec<String>,
    /// Ids of the findings that explain it.
    pub caused_by: Vec<String>,
    /// What to do, in the order in which to try.
    pub advice: Vec<String>,
    /// What to run to confirm it.
    pub commands: Vec<String>,
    /// When it was seen first, RFC 3339.
    pub start: String,
    /// When it was seen last.
    pub end: String,
    /// Windows in which it held.
    pub windows: u32,
    /// What of its scope it is about, where a rule may find several of one scope.
    #[serde(skip)]
    pub part: String,
    /// Ids of findings that say more of the same: where there is one this is not told.
    #[serde(skip)]
    pub unless: Vec<&'static str>,
    /// Ids of findings that its rule knows not to explain it, although they may concern the same.
    #[serde(skip)]
    pub cleared: Vec<&'static str>,
    /// Of whom alone it explains findings: of these processes, and of what lives in these cgroups, containers or pods.
    /// Nobody: it may be felt by all that its scope meets.
    #[serde(skip)]
    pub within: Vec<Owner>,
    /// Whose doing it is, where its scope is at the other end and that is on this node.
    #[serde(skip)]
    pub done_by: Option<Owner>,
    /// Whether it is about what was not sent: it explains nothing that was.
    #[serde(skip)]
    pub unsent: bool,
    /// Whether filters ask for nobody whom it names: it matters only beside flows that were asked for.
    #[serde(skip)]
    pub beside_flows: bool,
    /// Whether it is concluded from the windows before its own, too: a later one has seen what an earlier one saw.
    #[serde(skip)]
    pub looks_back: bool,
}

impl Finding {
    /// A claim about a scope, seen in the whole window. The id comes from the definition.
    #[must_use]
    pub fn new(
        watched: &Watched,
        severity: Severity,
        scope: Scope,
        title: impl Into<String>,
    ) -> Self {
        Self {
            id: String::new(),
            severity,
            confidence: 0.9,
            title: title.into(),
            explanation: String::new(),
            scope,
            evidence: Vec::new(),
            ruled_out: Vec::new(),
            not_observable: Vec::new(),
            caused_by: Vec::new(),
            advice: Vec::new(),
            commands: Vec::new(),
            start: watched.start.clone(),
            end: watched.end.clone(),
            windows: 1,
            part: String::new(),
            unless: Vec::new(),
            cleared: Vec::new(),
            within: Vec::new(),
            done_by: None,
            unsent: false,
            beside_flows: false,
            looks_back: false,
        }
    }

    /// How sure it is, 0 to 1; 0.9 unless said.
    #[must_use]
    pub fn confidence(self, confidence: f64) -> Self {
        Self { confidence: confidence.clamp(0.0, 1.0), ..self }
    }

    /// As sure as it was, but not surer than that.
    #[must_use]
    pub fn no_surer_than(self, confidence: f64) -> Self {
        Self { confidence: self.confidence.min(confidence), ..self }
    }

    /// What of its scope it is about: rules that may find several of one scope tell them apart by it.
    #[must_use]
    pub fn about(self, part: impl Into<String>) -> Self {
        Self { part: part.into(), ..self }
    }

    /// Whether both say the same of the same, maybe at different times. Of a cgroup it is said whoever of it had
    /// connections then.
    #[must_use]
    pub fn is_again(&self, earlier: &Self) -> bool {
        let is_of_place = !self.within.is_empty() && !earlier.within.is_empty();
        self.id == earlier.id
            && self.part == earlier.part
            && (is_of_place || self.scope.is_again(&earlier.scope))
    }

    /// Why it is so, and what it does.
    #[must_use]
    pub fn because(self, explanation: impl Into<String>) -> Self {
        Self { explanation: explanation.into(), ..self }
    }

    /// A number that goes with it.
    #[must_use]
    pub fn with(mut self, watched: &Watched, metric: &str, value: f64, unit: Unit) -> Self {
        self.evidence.push(Evidence {
            metric: metric.to_owned(),
            value,
            unit,
            threshold: None,
            window_s: watched.seconds,
        });
        self
    }

    /// A number that decided, in the unit of the threshold that it was compared with.
    #[must_use]
    pub fn beyond(
        mut self,
        watched: &Watched,
        metric: &str,
        value: f64,
        threshold: &Threshold,
        limits: &Limits,
    ) -> Self {
        self.evidence.push(Evidence {
            metric: metric.to_owned(),
            value,
            unit: threshold.unit,
            threshold: Some(limits.of(threshold)),
            window_s: watched.seconds,
        });
        self
    }

    /// What it is not, and what shows that.
    #[must_use]
    pub fn ruling_out(mut self, what: impl Into<String>) -> Self {
        self.ruled_out.push(what.into());
        self
    }

    /// Findings that do not explain it, whatever their scope.
    #[must_use]
    pub fn clearing(mut self, ids: &[&'static str]) -> Self {
        self.cleared.extend(ids);
        self
    }

    /// It explains findings of these owners and of what lives in them, and no others.
    #[must_use]
    pub fn felt_within(self, owners: Vec<Owner>) -> Self {
        Self { within: owners, ..self }
    }

    /// Who does it at the other end, where that is on this node.
    #[must_use]
    pub fn done_by(self, owner: Option<Owner>) -> Self {
        Self { done_by: owner, ..self }
    }

    /// What it is about was not sent, so that it explains nothing that was.
    #[must_use]
    pub fn sending_nothing(self) -> Self {
        Self { unsent: true, ..self }
    }

    /// Whether it is the doing of one of these owners, or of what lives in one.
    #[must_use]
    pub fn is_of(&self, owners: &[Owner]) -> bool {
        let scope = &self.scope;
        let doer = match &self.done_by {
            None if scope.kind.is_elsewhere() => return false,
            doer => doer.as_ref().unwrap_or(&scope.owner),
        };
        owners.iter().any(|owner| owner.holds(doer))
    }

    /// Findings of the same scope that say more of it: where there is one this is not told.
    #[must_use]
    pub fn unless(mut self, ids: &[&'static str]) -> Self {
        self.unless.extend(ids);
        self
    }

    /// What could not be seen and might change it.
    #[must_use]
    pub fn not_seeing(mut self, what: impl Into<String>) -> Self {
        self.not_observable.push(what.into());
        self
    }

    /// What to do next, after what was said before.
    #[must_use]
    pub fn advise(mut self, what: impl Into<String>) -> Self {
        self.advice.push(what.into());
        self
    }

    /// What to run to confirm it.
    #[must_use]
    pub fn confirm_by(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }

    /// The worse first, the surer of equally bad ones.
    #[must_use]
    pub fn rank(&self, other: &Self) -> Ordering {
        let severity = other.severity.cmp(&self.severity);
        severity.then(other.confidence.total_cmp(&self.confidence))
    }
}
