//! The image as one file: an OCI image layout (opencontainers/image-spec, image-layout.md) in a tar
//! archive, with the index that `docker load` reads beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::recipe::Recipe;
use crate::process;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Name and tag of the image.
pub(super) fn name() -> String {
    format!("netdiag:{}", env!("CARGO_PKG_VERSION"))
}

/// Writes the image with the root file system `root` to `path`.
pub(super) fn write(root: &Path, recipe: &Recipe, path: &Path) -> Result<()> {
    let parent = path.parent().context("the image's path has no directory")?;
    let work = tempfile::tempdir_in(parent)?;
    let layout = Layout { blobs: work.path().join("layout/blobs/sha256") };
    fs::create_dir_all(&layout.blobs)?;
    let layer = work.path().join("layer.tar");
    pack(root, &layer)?;
    let layer = layout.file(&layer, LAYER)?;
    let config = layout.json(CONFIG, &configuration(recipe, &layer))?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer.clone()],
    });
    let mut manifest = layout.json(MANIFEST, &manifest)?;
    // By the first containerd names images, by the second all others.
    manifest["annotations"] = json!({
        "io.containerd.image.name": format!("docker.io/library/{}", name()),
        "org.opencontainers.image.ref.name": name(),
    });
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    let docker = json!([{
        "Config": blob(&config), "RepoTags": [name()], "Layers": [blob(&layer)],
    }]);
    let whole = work.path().join("layout");
    for (file, content) in [
        ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
        ("index.json", index),
        ("manifest.json", docker),
    ] {
        fs::write(whole.join(file), content.to_string())?;
    }
    let new = work.path().join("image.tar");
    pack(&whole, &new)?;
    fs::rename(&new, path).with_context(|| format!("cannot write {}", path.display()))
}

fn configuration(recipe: &Recipe, layer: &Value) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": recipe.env, "Entrypoint": recipe.entrypoint, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    })
}

/// Everything below `directory` as root's, and of no time: equal content gives equal bytes.
fn pack(directory: &Path, to: &Path) -> Result<()> {
    process::run(
        Command::new("tar")
            .args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .args(["--mtime=@0", "--mode=u=rwX,go=rX", "--file"])
            .arg(to)
            .arg("--directory")
            .args([directory, Path::new(".")]),
    )
}

/// Where a blob lies in the archive.
fn blob(descriptor: &Value) -> String {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    format!("blobs/{}", digest.replace(':', "/"))
}

/// Blobs, each under the name of its digest.
struct Layout {
    blobs: PathBuf,
}

impl Layout {
    /// Moves a file there; gives its descriptor.
    fn file(&self, path: &Path, kind: &str) -> Result<Value> {
        let sum = process::output(Command::new("sha256sum").arg(path))?;
        let digest = sum.split_whitespace().next().context("sha256sum said nothing")?;
        let size = fs::metadata(path)?.len();
        fs::rename(path, self.blobs.join(digest))?;
        Ok(json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": size}))
    }

    fn json(&self, kind: &str, content: &Value) -> Result<Value> {
        let path = self.blobs.join("new");
        fs::write(&path, content.to_string())?;
        self.file(&path, kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_what_it_holds() {
        let work = tempfile::tempdir().unwrap();
        let (root, image) = (work.path().join("root"), work.path().join("image.tar"));
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("usr/bin/x"), "x").unwrap();
        let recipe = Recipe { entrypoint: vec!["x".into()], env: vec!["PATH=/usr/bin".into()] };
        write(&root, &recipe, &image).unwrap();
        let first = fs::read(&image).unwrap();
        write(&root, &recipe, &image).unwrap();
        assert!(first == fs::read(&image).unwrap(), "the same again");

        let out = work.path().join("out");
        fs::create_dir(&out).unwrap();
        let tar = |archive: &Path, to: &Path| {
            let mut command = Command::new("tar");
            process::run(command.arg("-xf").arg(archive).arg("-C").arg(to)).unwrap();
        };
        tar(&image, &out);
        let read = |path: &str| -> Value {
            serde_json::from_slice(&fs::read(out.join(path)).unwrap()).unwrap()
        };
        let manifest = read(&blob(&read("index.json")["manifests"][0]));
        let config = read(&blob(&manifest["config"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["x"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(read("manifest.json")[0]["Layers"][0], blob(&manifest["layers"][0]));
        let unpacked = work.path().join("unpacked");
        fs::create_dir(&unpacked).unwrap();
        tar(&out.join(blob(&manifest["layers"][0])), &unpacked);
        assert_eq!(fs::read_to_string(unpacked.join("usr/bin/x")).unwrap(), "x");
    }
}
