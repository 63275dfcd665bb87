//! What the Dockerfile says of the image beside its files.

use anyhow::{Context, Result, bail};

/// The last stage of a Dockerfile, as far as it matters to who starts the image.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recipe {
    pub(super) entrypoint: Vec<String>,
    pub(super) env: Vec<String>,
}

impl Recipe {
    /// Instructions on one line each; any other than those that netdiag's has are refused.
    pub(super) fn parse(dockerfile: &str) -> Result<Self> {
        let mut recipe = Self::default();
        let mut stage = "";
        for line in dockerfile.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (instruction, rest) =
                line.split_once(' ').with_context(|| format!("`{line}` says nothing"))?;
            match instruction {
                "FROM" => (stage, recipe) = (rest, Self::default()),
                "ENTRYPOINT" => recipe.entrypoint = serde_json::from_str(rest)?,
                "ENV" => recipe.env.push(rest.to_owned()),
                "COPY" | "RUN" | "WORKDIR" => {}
                _ => bail!("it has `{instruction}`, which is not known here"),
            }
        }
        if stage != "scratch" {
            bail!("its last stage is made from `{stage}`, not from nothing");
        }
        Ok(recipe)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workspace;

    #[test]
    fn the_last_stage_counts() {
        let text = "# a\nFROM rust AS build\nENV A=b\nRUN make\n\nFROM scratch\nENV PATH=/usr/bin\nENTRYPOINT [\"a\", \
                    \"b\"]\n";
        let recipe = Recipe::parse(text).unwrap();
        assert_eq!(recipe.entrypoint, ["a", "b"]);
        assert_eq!(recipe.env, ["PATH=/usr/bin"]);
        for bad in ["FROM debian\n", "FROM scratch\nUSER 1\n", "FROM scratch\nENTRYPOINT a\n"] {
            assert!(Recipe::parse(bad).is_err(), "{bad}");
        }
    }

    /// The Dockerfile takes what this command leaves, and starts what it contains.
    #[test]
    fn the_dockerfile_is_followed() {
        let text = fs::read_to_string(workspace::root().join("Dockerfile")).unwrap();
        let recipe = Recipe::parse(&text).unwrap();
        assert_eq!(recipe.entrypoint, ["netdiag"]);
        assert_eq!(recipe.env, ["PATH=/usr/bin"]);
        assert!(
            text.contains("RUN cargo xtask image\n") && text.contains("/target/image/rootfs/ /\n")
        );
    }
}
