//! Rust sources as tokens: no comment, string or line break is mistaken for code, and bodies of
//! macros are read like all others.

use std::str::FromStr;

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A token, an opening or a closing bracket.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// A source file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path in the work tree.
    pub(crate) path: String,
    pub(crate) lines: Vec<String>,
    /// What is compiled into the program: without what stands under `#[cfg(test)]`.
    pub(crate) code: Vec<Token>,
    /// Everything.
    pub(crate) all: Vec<Token>,
    /// Files that are modules under `#[cfg(test)]`.
    pub(crate) test_modules: Vec<String>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Result<Self> {
        let stream = TokenStream::from_str(text).map_err(|error| anyhow!("{path}: {error}"))?;
        let mut all = Vec::new();
        flatten(stream, &mut all);
        let (code, names) = without_tests(&all);
        let home = match path.strip_suffix(".rs") {
            Some(root) if ["lib", "main"].iter().any(|name| root.ends_with(name)) => {
                root.rsplit_once('/').map_or("", |(directory, _)| directory)
            }
            Some(module) => module,
            None => path,
        };
        let beside = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let place = |module: &TestModule| match &module.file {
            Some(file) => format!("{beside}/{file}"),
            None => format!("{home}/{}", module.name),
        };
        let test_modules = names.iter().map(place).collect();
        let lines = text.lines().map(str::to_owned).collect();
        Ok(Self { path: path.to_owned(), lines, code, all, test_modules })
    }
}

fn flatten(stream: TokenStream, into: &mut Vec<Token>) {
    for tree in stream {
        let TokenTree::Group(group) = tree else {
            into.push(Token { text: tree.to_string(), line: tree.span().start().line });
            continue;
        };
        let (open, close) = match group.delimiter() {
            Delimiter::Parenthesis => ("(", ")"),
            Delimiter::Brace => ("{", "}"),
            Delimiter::Bracket => ("[", "]"),
            Delimiter::None => ("", ""),
        };
        into.push(Token { text: open.to_owned(), line: group.span_open().start().line });
        flatten(group.stream(), into);
        into.push(Token { text: close.to_owned(), line: group.span_close().start().line });
    }
}

/// Whether these tokens come next.
pub(crate) fn follows(tokens: &[Token], expected: &[&str]) -> bool {
    tokens.len() >= expected.len()
        && expected.iter().zip(tokens).all(|(text, token)| token.text == *text)
}

/// Where the item ends that begins at the first token: behind its `;` or its braces.
fn item_end(tokens: &[Token]) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// A module under `#[cfg(test)]` that is a file.
struct TestModule {
    name: String,
    /// Its file without the ending, where `#[path]` names one.
    file: Option<String>,
}

/// Leaves out items under `#[cfg(test)]`; returns the modules among them that are files.
fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<TestModule>) {
    const ATTRIBUTE: &[&str] = &["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut code, mut modules) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        if !follows(&tokens[at..], ATTRIBUTE) {
            code.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let item = &tokens[at + ATTRIBUTE.len()..];
        let item = &item[..item_end(item)];
        if let Some(name) = item.iter().position(|token| token.text == "mod")
            && item.last().is_some_and(|last| last.text == ";")
        {
            let path = item.windows(3).find(|three| follows(three, &["path", "="]));
            let file = |three: &[Token]| {
                three[2].text.trim_matches('"').trim_end_matches(".rs").to_owned()
            };
            modules.push(TestModule { name: item[name + 1].text.clone(), file: path.map(file) });
        }
        at += ATTRIBUTE.len() + item.len();
    }
    (code, modules)
}
