use super::*;
use crate::{format::width, view::report::tests::sample};

fn page(report: &Report) -> String {
    let mut out = Vec::new();
    write(report, &mut out).expect("written");
    String::from_utf8(out).expect("UTF-8")
}

/// What the script reads, as the browser hands it over.
fn read(page: &str) -> serde_json::Value {
    let (_, rest) = page.split_once("id=\"data\">").expect("data");
    let (data, _) = rest.split_once("</script>").expect("its end");
    serde_json::from_str(data).expect("JSON")
}

const NAMES: [&str; 7] = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\u{1b}[2J\u{7}",
    "a\nb\r\tc\u{2028}d",
    "\u{202e}dlrow\u{2066}\u{200b}",
    "𝕏🦀\"\\'`${1}",
    "]]>&lt;&#x3c;",
];

#[test]
fn names_of_others_are_harmless() {
    let plain = page(&sample("shop"));
    let elements = plain.matches('<').count();
    for name in NAMES {
        let page = page(&sample(name));
        assert_eq!(page.matches('<').count(), elements, "{name:?} makes elements");
        let data = read(&page);
        let found = data["report"]["by"][1]["rows"][0]["name"].as_str().expect("a name").to_owned();
        assert_eq!(found.chars().count(), name.chars().count(), "{found:?}");
        assert!(!found.chars().any(|c| c.is_control() || width(&c.to_string()) == 0), "{found:?}");
    }
    let data = read(&page(&sample(NAMES[5])));
    assert_eq!(data["report"]["by"][1]["rows"][0]["name"], NAMES[5]);
}

#[test]
fn the_page_asks_for_nothing() {
    let page = page(&sample("shop"));
    assert!(page.contains("default-src 'none'"), "a policy forbids requests");
    let links = ["http://", "https://", "@import", "url(", "src=", "fetch(", "XMLHttpRequest"];
    // The name of a language of markup is no address.
    let page = page.replace("http://www.w3.org/2000/svg", "");
    let found: Vec<_> = links.iter().filter(|link| page.contains(**link)).collect();
    assert_eq!(found, [&""; 0], "links that lead elsewhere");
}

#[test]
fn heat_maps_have_an_end() {
    let report = sample("shop");
    let (mut room, mut none) = (CELLS, 0);
    assert!(extras(&report.all, &mut room)["response"].heat.is_some());
    assert_eq!(CELLS - room, 4);
    assert!(extras(&report.all, &mut none)["response"].heat.is_none());
}
