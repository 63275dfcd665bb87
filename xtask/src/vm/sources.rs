//! apt's sources: which Debian mirror this system is set to, and a private list for one kernel.
//!
//! Formats: sources.list(5), the one-line style and deb822.

use std::{fs, path::Path};

use anyhow::{Context, Result};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A Debian archive: where, and the keyring that vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    uri: String,
    signed_by: Option<String>,
}

/// The archives of a Debian system.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mirrors {
    main: Option<Archive>,
    security: Option<Archive>,
}

impl Mirrors {
    /// What /etc/apt is set to.
    pub(crate) fn of_system() -> Result<Self> {
        let mut mirrors = Self::default();
        let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
        let mut files: Vec<_> = parts.map(|entry| entry.path()).collect();
        files.sort();
        files.insert(0, Path::new("/etc/apt/sources.list").to_owned());
        for file in files {
            let Ok(text) = fs::read_to_string(&file) else { continue };
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("list") => mirrors.add_lines(&text),
                Some("sources") => mirrors.add_deb822(&text),
                _ => {}
            }
        }
        mirrors.main.as_ref().context(
            "apt's sources name no Debian archive, which Debian's kernels come from: add one to \
             /etc/apt/sources.list.d",
        )?;
        Ok(mirrors)
    }

    /// `deb [options] URI SUITE COMPONENT…`
    fn add_lines(&mut self, text: &str) {
        for line in text.lines() {
            let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
            let rest = rest.trim();
            let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
            {
                Some((options, rest)) => (options, rest),
                None => ("", rest),
            };
            let mut words = rest.split_whitespace();
            if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
                let signed_by =
                    options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
                self.add(uri, &[suite], signed_by);
            }
        }
    }

    /// Paragraphs of `Field: value`.
    fn add_deb822(&mut self, text: &str) {
        for paragraph in text.split("\n\n") {
            let field = |name: &str| {
                paragraph
                    .lines()
                    .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
            };
            let words =
                |name: &str| field(name).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
            if !words("Types").contains(&"deb") || field("Enabled") == Some("no") {
                continue;
            }
            // A Signed-By that starts a block holds the key itself, not a path.
            let signed_by = field("Signed-By").filter(|path| path.starts_with('/'));
            if let Some(uri) = words("URIs").first() {
                self.add(uri, &words("Suites"), signed_by);
            }
        }
    }

    /// Takes the first archive of each kind. Debian's are told from others by their path, which
    /// every mirror keeps.
    fn add(&mut self, uri: &str, suites: &[&str], signed_by: Option<&str>) {
        let path = uri.trim_end_matches('/');
        let archive = Archive { uri: uri.to_owned(), signed_by: signed_by.map(str::to_owned) };
        if path.ends_with("/debian-security") && suites.iter().any(|s| s.contains("security")) {
            self.security.get_or_insert(archive);
        } else if path.ends_with("/debian") {
            self.main.get_or_insert(archive);
        }
    }

    /// A sources.list for `suites`; those of the security archive are left out where this system
    /// has none.
    pub(crate) fn list(&self, suites: &[&str]) -> String {
        suites
            .iter()
            .filter_map(|suite| {
                let archive =
                    if suite.ends_with("-security") { &self.security } else { &self.main }
                        .as_ref()?;
                let keyring = archive.signed_by.as_deref().unwrap_or(KEYRING);
                Some(format!("deb [signed-by={keyring}] {} {suite} main\n", archive.uri))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb\n# a comment\nURIs: http://mirror.test/debian\nSuites: bookworm \
                          bookworm-updates\nComponents: main\nSigned-By: /keys/a.gpg\n\nTypes: \
                          deb\nURIs: http://mirror.test/debian-security/\nSuites: \
                          bookworm-security\nComponents: main\nSigned-By:\n -----BEGIN PGP-----\n\n\
                          Types: deb\nURIs: http://other.test/node\nSuites: nodistro\n";

    #[test]
    fn deb822_is_read() {
        let mut mirrors = Mirrors::default();
        mirrors.add_deb822(DEB822);
        assert_eq!(
            mirrors.list(&["bullseye", "bullseye-security"]),
            format!(
                "deb [signed-by=/keys/a.gpg] http://mirror.test/debian bullseye main\ndeb \
                 [signed-by={KEYRING}] http://mirror.test/debian-security/ bullseye-security main\n"
            )
        );
    }

    #[test]
    fn one_line_style_is_read() {
        let mut mirrors = Mirrors::default();
        mirrors.add_lines(
            "# deb http://no.test/debian x main\ndeb-src http://no.test/debian x main\ndeb \
             https://other.test/apt stable main\ndeb [arch=amd64 signed-by=/k.gpg] \
             http://one.test/debian bookworm main contrib\ndeb http://two.test/debian bookworm main\n",
        );
        assert_eq!(
            mirrors.list(&["sid"]),
            "deb [signed-by=/k.gpg] http://one.test/debian sid main\n"
        );
        assert_eq!(mirrors.list(&["bullseye-security"]), "", "no security archive, no line");
    }

    #[test]
    fn disabled_and_source_only_paragraphs_are_not() {
        let mut mirrors = Mirrors::default();
        mirrors.add_deb822("Types: deb-src\nURIs: http://a.test/debian\nSuites: x\n");
        mirrors.add_deb822("Enabled: no\nTypes: deb\nURIs: http://a.test/debian\nSuites: x\n");
        assert_eq!(mirrors, Mirrors::default());
    }
}
