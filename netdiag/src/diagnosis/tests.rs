use super::{order::rank, *};
use crate::{finding::Severity, watched::kit};

fn lossy(second: u64, lost: u64) -> Snapshot {
    let flow = kit::flow("f1")
        .count("data_segments_sent", 100)
        .count("retransmits.rto", 0)
        .count("retransmits.fast", lost);
    kit::snapshot(second, vec![flow])
}

#[test]
fn a_bad_minute_of_an_hour_is_found() {
    let mut diagnosis = Diagnosis::new(Thresholds::new());
    for second in 0..3_600 {
        let bad = (1_800..1_860).contains(&second);
        diagnosis.take(&lossy(second, if bad { 10 } else { 0 }));
    }
    let report = diagnosis.report().expect("a report");
    assert_eq!(report.intervals, 3_600);
    let [found] = &report.findings[..] else { panic!("{:#?}", report.findings) };
    assert_eq!((found.id.as_str(), found.severity), ("packet-loss", Severity::Critical));
    assert_eq!((found.start.as_str(), found.windows), ("2026-11-28T14:30:00.000000000Z", 1));
}

#[test]
fn what_holds_on_is_one_finding() {
    let mut diagnosis = Diagnosis::new(Thresholds::new());
    for second in 0..150 {
        diagnosis.take(&lossy(second, 10));
    }
    assert_eq!(diagnosis.findings().len(), 1);
    let report = diagnosis.report().expect("a report");
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].windows, 3);
}

#[test]
fn thresholds_can_be_given() {
    let given = Limits::new(vec![("loss_ratio", 0.5), ("critical_ratio", 0.6)]);
    let mut diagnosis = Diagnosis::new(Thresholds::from([("packet-loss", given)]));
    (0..10).for_each(|second| diagnosis.take(&lossy(second, 10)));
    assert_eq!(diagnosis.report().expect("a report").findings[0].severity, Severity::Info);
}

#[test]
fn what_cannot_be_concluded_is_said() {
    let mut snapshot = lossy(0, 10);
    snapshot.signals.retain(|status| status.signal != "retransmit");
    let mut diagnosis = Diagnosis::new(Thresholds::new());
    diagnosis.take(&snapshot);
    let report = diagnosis.report().expect("a report");
    assert_eq!(report.findings, []);
    assert!(report.withheld.iter().any(|withheld| withheld.id == "packet-loss"));
}

#[test]
fn worse_comes_first() {
    let watched = kit::watched(&[]);
    let of = |severity, confidence| {
        Finding::new(&watched, severity, Scope::namespace(1), "").confidence(confidence)
    };
    let ranked = rank(vec![
        of(Severity::Info, 1.0),
        of(Severity::Critical, 0.5),
        of(Severity::Warning, 0.9),
        of(Severity::Critical, 0.8),
    ]);
    let order: Vec<_> = ranked.iter().map(|one| (one.severity, one.confidence)).collect();
    assert_eq!(
        order,
        [
            (Severity::Critical, 0.8),
            (Severity::Critical, 0.5),
            (Severity::Warning, 0.9),
            (Severity::Info, 1.0)
        ]
    );
}

#[test]
fn no_run_no_report() {
    assert_eq!(Diagnosis::new(Thresholds::new()).report(), None);
}
