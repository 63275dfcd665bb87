//! The command `report`: what it prints is what was recorded, to the sample, of nodes that still write, too, and of
//! files that are torn; and its page works in a browser that can reach nothing.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use jsonschema::Validator;
use netdiag::{
    diagnosis,
    report::Report,
    snapshot::{Distribution, Role},
};
use netdiag_tests::{
    browser::Browser,
    dumps::{self, Dumps},
    facts::Facts,
    fault, hlog,
    netdiag::{self as program, Netdiag},
    network::Pair,
    require,
    requirement::{Feature, alone},
    tool,
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
    tree,
};
use serde_json::{Value, json};

const ECHO: Exchange = Exchange { sends: 200, bytes: 300, echo: true };
const BULK: Exchange = Exchange { sends: 200, bytes: 16 << 10, echo: false };

/// Records both ends of conversations that lose packets on the way to the right one, each by a node of its own in a
/// directory of that name.
fn record(root: &Path) -> Result<()> {
    let pair = Pair::new()?;
    let start = |node: &str, netns: u32| {
        let out = root.join(node).display().to_string();
        let netns = netns.to_string();
        let run = ["record", "--out", &out, "--node", node, "--netns", &netns, "-i", "500ms"];
        Netdiag::start(&run)
    };
    let near = start("near", pair.left.inode())?;
    let far = start("far", pair.right.inode())?;
    let open = |family| Connection::open(&pair.left, &pair.right, family);
    let connections = [open(Family::V4)?, open(Family::V6)?];
    exchange(connections.iter().map(|connection| (connection, ECHO)))?;
    let loss = fault::loss(&pair.left, &pair.right, 15)?;
    exchange(connections.iter().map(|connection| (connection, BULK)))?;
    loss.end()?;
    exchange(connections.iter().map(|connection| (connection, ECHO)))?;
    for connection in connections {
        connection.reset()?;
    }
    near.stop_text()?;
    far.stop_text()?;
    Ok(())
}

fn report(paths: &[&Path], more: &[&str]) -> Result<Report> {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut all = vec!["report", "-o", "json"];
    all.extend(paths.iter().map(String::as_str));
    all.extend(more);
    let output = program::run(&all)?;
    let said = tool::finish("netdiag report", &output)?;
    ensure!(said.lines().count() == 1, "{} lines", said.lines().count());
    let value: Value = serde_json::from_str(&said)?;
    if let Some(root) = tree::root()? {
        let schema = fs::read_to_string(root.join("docs/schema/report-1.json"))?;
        let validator: Validator = jsonschema::validator_for(&serde_json::from_str(&schema)?)?;
        let errors: Vec<_> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
        ensure!(errors.is_empty(), "not what the schema says: {errors:?}");
    }
    Ok(serde_json::from_value(value)?)
}

/// The files of that kind in a directory, oldest first.
fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found: Vec<_> = fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|is| is == extension))
        .collect();
    found.sort();
    Ok(found)
}

/// What logs hold of all flows by metric, as the crate that wrote them adds it up.
fn logged(directories: &[PathBuf]) -> Result<BTreeMap<String, Distribution>> {
    let mut all: BTreeMap<String, Histogram<u64>> = BTreeMap::new();
    for directory in directories {
        for log in files(directory, "hlog")? {
            for (tag, histogram) in hlog::read(&log)? {
                let Some((_, metric)) = tag.rsplit_once('.') else { continue };
                match all.get_mut(metric) {
                    Some(sum) => {
                        sum.add(&histogram).map_err(|error| anyhow::anyhow!("{error:?}"))?;
                    }
                    None => drop(all.insert(metric.to_owned(), histogram)),
                }
            }
        }
    }
    let told = |histogram: &Histogram<u64>| {
        let at = |quantile| Some(histogram.value_at_quantile(quantile));
        Distribution {
            count: histogram.len(),
            min_ns: Some(histogram.min()),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: Some(histogram.max()),
            out_of_range: 0,
        }
    };
    Ok(all.iter().map(|(metric, histogram)| (metric.clone(), told(histogram))).collect())
}

#[test]
fn two_nodes_are_merged_and_their_ends_meet() -> Result<()> {
    require!(Feature::Nft);
    let _alone = alone();
    let root = tempfile::tempdir()?;
    record(root.path())?;
    let directories = ["near", "far"].map(|node| root.path().join(node));
    let [near, far] = directories.each_ref().map(PathBuf::as_path);
    let told = report(&[near, far], &["--by", "peer,node,flow"])?;
    let mut facts = Facts::new();
    facts.note(format_args!("{}", serde_json::to_string(&told.conversations)?));
    facts.equal("what all logs hold", &told.all.metrics, &logged(&directories)?);
    facts.holds("nothing was lost", told.complete && told.notes.is_empty());
    let nodes: Vec<_> = told.nodes.iter().map(|node| node.name.as_str()).collect();
    facts.equal("nodes", nodes, vec!["far", "near"]);
    for (at, directory) in [(0, &directories[1]), (1, &directories[0])] {
        let name = &told.nodes[at].name;
        let row = told.by[1].rows.iter().find(|row| row.name.as_ref() == Some(name));
        let row = row.context("a row of the node")?;
        facts.equal(
            format_args!("of {name}"),
            &row.metrics,
            &logged(std::slice::from_ref(directory))?,
        );
    }
    let again =
        report(&[root.path().join("near").as_path(), near, far], &["--by", "peer,node,flow"])?;
    facts.equal("a directory counts once", &again.all.metrics, &told.all.metrics);
    facts.equal("conversations", told.conversations.len(), 2);
    for one in &told.conversations {
        let [client, server] = &one.ends[..] else { anyhow::bail!("{one:?}") };
        facts.equal("ends", [client.node.as_str(), server.node.as_str()], ["near", "far"]);
        facts.equal("client", client.role, Some(Role::Client));
        facts.equal("addresses", (&client.local, &client.peer), (&server.peer, &server.local));
        let lost = one.ways[0].segments_lost;
        facts.holds(format_args!("segments that were lost: {lost:?}"), lost > Some(0));
        let again = one.ways[0].retransmits;
        facts.holds(format_args!("segments sent again: {again:?}"), again > Some(0));
        let place = &one.ways[0].lost_where;
        facts.holds(
            format_args!("on the node that dropped them: {place}"),
            place.starts_with("on far"),
        );
    }
    for (node, directory) in ["near", "far"].into_iter().zip(&directories) {
        let from = ["diagnose", "-o", "json", "--from", &directory.display().to_string()];
        let said = tool::finish("diagnose", &program::run(&from)?)?;
        let expected: diagnosis::Report = serde_json::from_str(&said)?;
        let of_node = told.findings.iter().filter(|one| one.node == node);
        let found: Vec<_> = of_node.map(|one| one.finding.clone()).collect();
        facts.equal(format_args!("findings of {node}"), found, expected.findings);
    }
    let only = report(&[near, far], &["--by", "node", "--peer-port", "1"])?;
    facts.equal("of a port that nobody asks for", only.all.metrics.len(), 0);
    facts.finish();
    Ok(())
}

#[test]
fn text_has_80_columns_and_wrong_usage_is_said() -> Result<()> {
    let root = tempfile::tempdir()?;
    let out = root.path().join("made");
    dumps::make(&Dumps { out: &out, node: "made", bytes: 1 << 20 })?;
    let out = out.display().to_string();
    let text = tool::finish("report", &program::run(&["report", &out, "--by", "peer,owner"])?)?;
    let mut facts = Facts::new();
    facts.note(format_args!("{text}"));
    let widest = text.lines().map(netdiag::format::width).max();
    facts.holds("80 columns are enough", widest.is_some_and(|columns| columns <= 80));
    for part in
        ["by peer", "by owner", "by time", "10.1.0.", "shop-", "retransmits", "complete: yes"]
    {
        facts.holds(format_args!("it says {part}"), text.contains(part));
    }
    let link = root.path().join("link.html");
    std::os::unix::fs::symlink("/nowhere/page", &link)?;
    let link = link.display().to_string();
    for (arguments, says) in [
        (vec!["report", "/nowhere"], "No such file"),
        (vec!["report", "/proc/self"], "there is no netdiag-NODE-TIME"),
        (vec!["report", &out, "--netns", "blue"], "by inode number"),
        (vec!["report", &out, "--wait"], "leave it out"),
        (vec!["report", &out, "--since", "soon"], "is no time"),
        (vec!["report", &out, "--metric", "rtts"], "did you mean `rtt`"),
        (vec!["report", &out, "--html", &link], "a symlink is not followed"),
    ] {
        let output = program::run(&arguments)?;
        let said = String::from_utf8(output.stderr)?;
        facts.equal(format_args!("status of {arguments:?}"), output.status.code(), Some(2));
        facts.holds(format_args!("{said}"), said.contains(says) && said.lines().count() == 1);
    }
    let late = program::run(&["report", &out, "--since", "2100-01-01T00:00:00Z"])?;
    facts.equal("status where there is nothing", late.status.code(), Some(0));
    facts.finish();
    Ok(())
}

/// Whatever is cut off either file: what both hold whole counts.
#[test]
fn torn_files_are_read_as_far_as_they_go() -> Result<()> {
    let root = tempfile::tempdir()?;
    let out = root.path().join("made");
    dumps::make(&Dumps { out: &out, node: "made", bytes: 6 << 20 })?;
    let log = files(&out, "hlog")?.pop().context("a log")?;
    let sidecar = log.with_extension("jsonl");
    let (whole_log, whole) = (fs::read(&log)?, fs::read(&sidecar)?);
    let mut facts = Facts::new();
    let all = report(&[&out], &[])?;
    facts.equal("all of it", &all.all.metrics, &logged(std::slice::from_ref(&out))?);
    let intervals = all.nodes[0].intervals;
    facts.holds(format_args!("{intervals} intervals are enough"), intervals >= 3);
    // The last line of the sidecar is torn: its histograms do not count either.
    fs::write(&sidecar, &whole[..whole.len() - 10])?;
    let torn = report(&[&out], &[])?;
    facts.equal("intervals", torn.nodes[0].intervals, intervals - 1);
    let counts = |report: &Report| report.all.metrics["send"].count;
    let each = counts(&all) / intervals;
    facts.equal("samples", counts(&torn), counts(&all) - each);
    facts.holds(
        format_args!("it is said: {:?}", torn.notes),
        torn.notes.len() == 1 && !torn.complete,
    );
    // The log is: then there are counts, and nothing is added twice.
    fs::write(&sidecar, &whole)?;
    fs::write(&log, &whole_log[..whole_log.len() - 100])?;
    let torn = report(&[&out], &[])?;
    facts.equal("intervals", torn.nodes[0].intervals, intervals);
    facts.equal("samples", counts(&torn), counts(&all) - each);
    facts.equal("counts", &torn.all.counts, &all.all.counts);
    facts.holds(
        format_args!("it is said: {:?}", torn.notes),
        torn.notes.len() == 1 && !torn.complete,
    );
    facts.finish();
    Ok(())
}

/// Names that others could choose, as JSON has them.
const NAMES: [&str; 4] = [
    r"</script><script>document.title='owned'</script>",
    r"\u001b[2J\u0007x\ny",
    r"\u202edlrow\u200b",
    "𝕏🦀",
];

/// A page of recordings in which processes have such names.
fn page(root: &Path) -> Result<PathBuf> {
    let out = root.join("made");
    dumps::make(&Dumps { out: &out, node: "made", bytes: 8 << 20 })?;
    for sidecar in files(&out, "jsonl")? {
        let mut text = fs::read_to_string(&sidecar)?;
        for (nth, name) in NAMES.iter().enumerate() {
            text =
                text.replace(&format!("\"comm\":\"shop-{nth}\""), &format!("\"comm\":\"{name}\""));
        }
        fs::write(&sidecar, text)?;
    }
    let page = root.join("report.html");
    let arguments = ["report", &out.display().to_string(), "--html", &page.display().to_string()];
    tool::finish("report", &program::run(&[&arguments[..], &["--top", "50"]].concat())?)?;
    Ok(page)
}

#[test]
fn the_page_works_where_nothing_can_be_reached() -> Result<()> {
    require!(Feature::Browser);
    let root = tempfile::tempdir()?;
    let page = page(root.path())?;
    let mut browser = Browser::open(&page, "by=peer", (1280, 900))?;
    let mut facts = Facts::new();
    let count = |browser: &mut Browser, selector: &str| -> Result<u64> {
        let all =
            browser.evaluate(&format!("document.querySelectorAll({}).length", json!(selector)))?;
        all.as_u64().context("a number")
    };
    let text = |browser: &mut Browser, selector: &str| {
        browser.evaluate(&format!("document.querySelector({})?.textContent", json!(selector)))
    };
    facts.holds("charts are drawn", count(&mut browser, "#charts svg")? >= 3);
    let drawn = "[...document.querySelectorAll('#charts svg path.median, #charts svg path.heat, #curve path.median')]\
                 .filter((path) => path.getBBox().width > 100).length";
    facts.holds("lines are in them", browser.evaluate(drawn)?.as_u64() >= Some(3));
    facts.equal("rows", count(&mut browser, "#groups .name")?, 50);
    // By keys alone: search, move, choose, back.
    browser.press("/")?;
    browser.insert("10.1.0.50")?;
    facts.equal("rows that are found", count(&mut browser, "#groups .name")?, 1);
    browser.press("ArrowDown")?;
    browser.press("Enter")?;
    facts.equal("what is shown", text(&mut browser, "#shown")?, json!("10.1.0.50"));
    facts.equal("it is drawn beside everything", count(&mut browser, "#curve path.everything")?, 1);
    browser.press("Escape")?;
    facts.equal("what is shown then", text(&mut browser, "#shown")?, json!("everything"));
    browser.press("/")?;
    browser.press("Escape")?;
    facts.equal("rows without a search", count(&mut browser, "#groups .name")?, 50);
    browser.evaluate("document.getElementById('charts').focus()")?;
    browser.press("ArrowRight")?;
    facts.holds("a line stands in each chart", count(&mut browser, "#charts .cursor")? >= 3);
    let readout = text(&mut browser, "#readout")?;
    facts.holds(
        format_args!("what is there is said: {readout}"),
        readout.as_str().is_some_and(|it| it.contains("p99 ")),
    );
    // Times have their date where there are several days to choose from.
    for (step_ns, count, expected) in [
        (1_000_000_000_u64, 240, "14:00:01"),
        (1_800_000_000_000, 47, "14:30:00"),
        (1_800_000_000_000, 48, "11-28 14:30"),
        (3_600_000_000_000, 2, "11-28 15:00"),
        (86_400_000_000_000, 10, "2026-11-29"),
    ] {
        let times = json!({"start": "2026-11-28T14:00:00Z", "step_ns": step_ns, "count": count});
        let label = format!("timeAxis({times}, 1000).label(1)");
        facts.equal(&label, browser.evaluate(&label)?, json!(expected));
    }
    let finding = json!({
        "node": "made", "id": "packet-loss", "severity": "warning", "title": "", "explanation": "",
        "start": "2026-11-28T14:00:00.5Z", "end": "2026-12-01T15:00:00Z",
        "scope": {"kind": "node", "name": "made"}, "evidence": [], "commands": [], "advice": [],
        "ruled_out": [], "not_observable": [], "caused_by": [],
    });
    let held = format!("findingDetails({finding}, 0).querySelector('.faint').textContent");
    let held = browser.evaluate(&held)?;
    facts.equal("a finding held", held, json!("2026-11-28 14:00:00 to 2026-12-01 15:00:00"));
    let group = "const by = document.getElementById('by'); by.value = 'owner'; by.dispatchEvent(new Event('change'))";
    browser.evaluate(group)?;
    facts.equal("rows by owner", count(&mut browser, "#groups .name")?, 40);
    let names = browser.evaluate(
        "[...document.querySelectorAll('#groups .name')].map((name) => name.textContent)",
    )?;
    let shown: Vec<&str> =
        names.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for name in [NAMES[0], "\u{fffd}[2J\u{fffd}x\u{fffd}y", "\u{fffd}dlrow\u{fffd}", NAMES[3]] {
        facts.holds(format_args!("{name:?} is among {shown:?}"), shown.contains(&name));
    }
    facts.equal("scripts", count(&mut browser, "script")?, 2);
    facts.equal("title", browser.evaluate("document.title")?, json!("netdiag report"));
    for theme in ["dark", "light", ""] {
        browser.evaluate("document.getElementById('theme').click()")?;
        let is = browser.evaluate("document.documentElement.dataset.theme ?? ''")?;
        facts.equal("theme", is, json!(theme));
    }
    for (width, most) in [(1280, 1280), (400, 400)] {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        browser.call("Emulation.setDeviceMetricsOverride", &size)?;
        let scrolled = browser.evaluate("document.documentElement.scrollWidth")?.as_u64();
        facts.holds(format_args!("{scrolled:?} fit {most}"), scrolled <= Some(most));
    }
    let printed = browser.call("Page.printToPDF", &json!({"printBackground": true}))?;
    let printed = printed["data"].as_str().unwrap_or_default();
    facts.holds("it can be printed", printed.starts_with("JVBERi0"));
    facts.equal("what it said", std::mem::take(&mut browser.said), vec![]);
    let asked: Vec<_> = browser
        .requests
        .iter()
        .filter(|url| !url.starts_with("file://") && !url.starts_with("data:"))
        .collect();
    facts.equal("what it asked for", asked, Vec::<&String>::new());
    facts.finish();
    Ok(())
}

/// Peak of memory that a command took, and how long it ran.
fn measured(arguments: &[&str]) -> Result<(u64, f64)> {
    let start = Instant::now();
    let mut child = Command::new(program::binary()?)
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let done = loop {
        if let Some(done) = child.try_wait()? {
            break done;
        }
        let told = fs::read_to_string(&status).unwrap_or_default();
        let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    ensure!(done.success(), "{arguments:?}: {done}");
    Ok((peak, start.elapsed().as_secs_f64()))
}

/// Four times as much takes no more memory than is bounded by rows and columns. `NETDIAG_REPORT_BYTES` makes more.
#[test]
fn much_is_reported_in_little_memory() -> Result<()> {
    let root = tempfile::tempdir()?;
    let most = env::var("NETDIAG_REPORT_BYTES").ok().and_then(|bytes| bytes.parse().ok());
    let most: u64 = most.unwrap_or(48 << 20);
    let mut facts = Facts::new();
    for (node, bytes) in [("little", most / 4), ("much", most)] {
        let out = root.path().join(node);
        let intervals = dumps::make(&Dumps { out: &out, node, bytes })?;
        let page = root.path().join(format!("{node}.html"));
        let (paths, page) = (out.display().to_string(), page.display().to_string());
        let (peak, seconds) = measured(&["report", &paths, "--html", &page])?;
        let size = fs::metadata(&page)?.len();
        let line = format!(
            "{intervals} intervals, {} MiB: {seconds:.1} s, peak {} MiB, page {:.1} MiB",
            bytes >> 20,
            peak >> 20,
            size as f64 / f64::from(1 << 20)
        );
        eprintln!("{line}");
        facts.note(format_args!("{line}"));
        facts.holds("the page is no larger than 32 MiB", size < 32 << 20);
        facts.holds("memory is bounded", peak < 512 << 20);
        fs::remove_dir_all(&out)?;
    }
    facts.finish();
    Ok(())
}
