//! The rules, each a pure function from a source to what breaks it, one line each.

use crate::tokens::{Source, Token, follows};

/// Lines that no file may go beyond, and from which on it asks to be split.
pub(crate) const MOST_LINES: usize = 500;
pub(crate) const MANY_LINES: usize = 300;

/// How far above an `unsafe` its `SAFETY` may stand: a statement may begin some lines before.
const SAFETY_WITHIN: usize = 6;

fn at(source: &Source, token: &Token, what: &str) -> String {
    format!("{}:{}: {what}", source.path, token.line)
}

/// Modules of the crate that a file uses, by `crate::x` and by `super::x` that reaches the crate's
/// root, in `use` and elsewhere. `depth` is how many modules the file stands in.
pub(crate) fn uses(source: &Source, depth: usize) -> Vec<(String, usize)> {
    let tokens = &source.code;
    let mut found = Vec::new();
    let mut inside = Vec::new(); // per open brace, whether it is a module's
    for (i, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => inside.push(i >= 2 && tokens[i - 2].text == "mod"),
            "}" => {
                inside.pop();
            }
            "crate" if follows(&tokens[i + 1..], &[":", ":"]) => {
                found.extend(first_names(&tokens[i + 3..]));
            }
            "super" if i < 3 || tokens[i - 3].text != "super" => {
                let mut up = 0;
                while follows(&tokens[i + 3 * up..], &["super", ":", ":"]) {
                    up += 1;
                }
                if up > 0 && up == depth + inside.iter().filter(|&&module| module).count() {
                    found.extend(first_names(&tokens[i + 3 * up..]));
                }
            }
            _ => {}
        }
    }
    found
}

/// `x` of `x::y`, or `x` and `z` of `{x::y, z}`.
fn first_names(tokens: &[Token]) -> Vec<(String, usize)> {
    let name = |token: &Token| (token.text.clone(), token.line);
    if tokens.first().is_none_or(|token| token.text != "{") {
        return tokens.first().map(name).into_iter().collect();
    }
    let (mut names, mut depth) = (Vec::new(), 0);
    for pair in tokens.windows(2) {
        match pair[0].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && ["{", ","].contains(&pair[0].text.as_str()) && pair[1].text != "}" {
            names.push(name(&pair[1]));
        }
    }
    names
}

/// Names that only some files may say; a `*` at the end stands for anything.
pub(crate) fn names(source: &Source, forbidden: &[&str], why: &str) -> Vec<String> {
    let matches = |text: &str| {
        forbidden.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => text.starts_with(prefix),
            None => text == *pattern,
        })
    };
    let found = source.code.iter().filter(|token| matches(&token.text));
    found.map(|token| at(source, token, &format!("{} {why}", token.text))).collect()
}

/// Volatile reads of anything but a place that is spelled out: a pointer into the kernel has no
/// fields to spell.
pub(crate) fn volatile_reads(source: &Source) -> Vec<String> {
    let tokens = &source.code;
    (0..tokens.len())
        .filter(|&i| follows(&tokens[i..], &["read_volatile", "("]))
        .filter(|&i| !follows(&tokens[i + 2..], &["&", "raw", "const", "("]))
        .map(|i| at(source, &tokens[i], "a volatile read by address"))
        .collect()
}

/// `unsafe` blocks and implementations without a comment that says why they are sound.
pub(crate) fn unsound(source: &Source) -> Vec<String> {
    let says_why = |line: usize| {
        let before = &source.lines[line.saturating_sub(1 + SAFETY_WITHIN)..line];
        before.iter().any(|line| line.contains("// SAFETY: "))
    };
    let opens = |next: &Token| ["{", "impl"].contains(&next.text.as_str());
    source
        .all
        .windows(2)
        .filter(|pair| pair[0].text == "unsafe" && opens(&pair[1]) && !says_why(pair[0].line))
        .map(|pair| at(source, &pair[0], "unsafe without a SAFETY comment"))
        .collect()
}

/// Lints switched off where `expect` would tell when that is no longer needed.
pub(crate) fn allowed(source: &Source) -> Vec<String> {
    let tokens = &source.all;
    let is_attribute = |i: usize| {
        ["[", ",", "("].contains(&tokens[i - 1].text.as_str())
            && tokens[..i].iter().rev().take(8).any(|token| token.text == "#")
    };
    (1..tokens.len())
        .filter(|&i| follows(&tokens[i..], &["allow", "("]) && is_attribute(i))
        .map(|i| at(source, &tokens[i], "allow; say expect, with a reason"))
        .collect()
}

/// Public structs of the ABI that cannot be read from bytes by zerocopy, or have another layout.
pub(crate) fn unreadable(source: &Source) -> Vec<String> {
    let tokens = &source.code;
    let mut wrong = Vec::new();
    let mut since = 0;
    for i in 0..tokens.len() {
        if follows(&tokens[i..], &["pub", "struct"]) {
            let attributes = &tokens[since..i];
            let has = |name: &str| attributes.iter().any(|token| token.text == name);
            let name = &tokens[i + 2].text;
            for needed in ["C", "FromBytes", "IntoBytes", "Immutable"] {
                if !has(needed) {
                    wrong.push(at(source, &tokens[i], &format!("{name} lacks {needed}")));
                }
            }
        }
        if ["}", ";"].contains(&tokens[i].text.as_str()) {
            since = i;
        }
    }
    wrong
}

/// A file that is too long.
pub(crate) fn too_long(source: &Source) -> Option<String> {
    let lines = source.lines.len();
    (lines > MOST_LINES).then(|| format!("{}: {lines} lines", source.path))
}

/// Signals by name, where code should go through all of them.
pub(crate) fn signals(source: &Source) -> Vec<String> {
    let tokens = &source.code;
    (0..tokens.len())
        .filter(|&i| follows(&tokens[i..], &["Signal", ":", ":"]))
        .filter(|&i| {
            // Not what every signal has, such as `Signal::name`.
            let named = tokens[i + 3].text.as_str();
            named.starts_with(char::is_uppercase) && !["ALL", "COUNT"].contains(&named)
        })
        .map(|i| at(source, &tokens[i], &format!("Signal::{}", tokens[i + 3].text)))
        .collect()
}
