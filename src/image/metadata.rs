//! What an image says of itself: labels, scripts, help, apps, the definition that it was built from.
//!
//! ```text
//! SIF: the generic JSON object "inspect-metadata.json"     what the builder found, written beside the root
//! else the files of the image
//!   /.singularity.d/{runscript,startscript,test,runscript.help,labels.json,Singularity}
//!   /.singularity.d/env/{10-docker*.sh,9*-environment.sh}
//!   /scif/apps/NAME/scif/...                               the same for each app
//! ```
//!
//! The JSON is that of Apptainer: the same names in the same order, what is empty left out, text without the
//! newlines at its end.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::sif::{DataType, Sif};
use super::source::Source;
use super::squashfs::FileKind;
use super::{Image, Tree};
use crate::error::{Context, Result};

/// Where apps are.
pub const APPS: &str = "/scif/apps";
/// The name of the object in a SIF.
pub const OBJECT_NAME: &str = "inspect-metadata.json";
/// The name of the object with the configuration of the OCI image that a SIF was made of.
pub const OCI_CONFIG_NAME: &str = "oci-config.json";
/// Where an image keeps what it says of itself.
const DIRECTORY: &str = "/.singularity.d";
/// The text that the image was built from.
const DEFINITION: &str = "/.singularity.d/Singularity";
/// No text is longer: what is, is a program and not metadata.
const TEXT_LIMIT: u64 = 16 << 20;
/// No object is longer.
const OBJECT_LIMIT: u64 = 16 << 20;
/// No image has more apps that are looked at.
const APPS_LIMIT: usize = 1000;

/// By name, or by path.
pub type Texts = BTreeMap<String, String>;

/// What an image says of itself. Text that is empty is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// Its apps.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub apps: BTreeMap<String, App>,
    /// Scripts that set variables, by path.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: Texts,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Texts,
    /// What `run` runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runscript: String,
    /// What `test` runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub test: String,
    /// What `run-help` prints.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub helpfile: String,
    /// The definition that it was built from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deffile: String,
    /// What an instance starts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub startscript: String,
}

/// What an app says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct App {
    /// Scripts that set variables, by path.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: Texts,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Texts,
    /// What `run --app` runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runscript: String,
    /// What an instance starts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub startscript: String,
    /// What `test --app` runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub test: String,
    /// What `run-help --app` prints.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub helpfile: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document<A> {
    data: Data<A>,
    #[serde(rename = "type", default)]
    kind: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Data<A> {
    attributes: A,
}

/// Reads what an image says of itself: from its SIF, else from its files.
///
/// # Errors
/// When it cannot be read. What is not there is no error.
pub fn read(image: &Image) -> Result<Attributes> {
    let Some(sif) = &image.sif else { return of_tree(&image.tree()?) };
    let whole = Source::whole(image.file.clone()).tried(|| format!("cannot read {:?}", image.path))?;
    if let Some(attributes) = of_sif(sif, &whole)? {
        return Ok(attributes);
    }
    let mut attributes = of_tree(&image.tree()?)?;
    if let Some(definition) = object(sif, &whole, DataType::DEFINITION, None)? {
        attributes.deffile = text(&definition);
    }
    Ok(attributes)
}

/// What the SIF's own object says; none if it has none, or one that cannot be understood.
///
/// # Errors
/// When it cannot be read.
pub fn of_sif(sif: &Sif, whole: &Source) -> Result<Option<Attributes>> {
    let Some(bytes) = object(sif, whole, DataType::GENERIC_JSON, Some(OBJECT_NAME))? else { return Ok(None) };
    let document: Option<Document<Attributes>> = serde_json::from_slice(&bytes).ok();
    Ok(document.map(|document| document.data.attributes))
}

/// The configuration of the OCI image that a SIF was made of, as it came; none in other images.
///
/// # Errors
/// When it cannot be read.
pub fn oci_config(image: &Image) -> Result<Option<Vec<u8>>> {
    let Some(sif) = &image.sif else { return Ok(None) };
    let whole = Source::whole(image.file.clone()).tried(|| format!("cannot read {:?}", image.path))?;
    object(sif, &whole, DataType::GENERIC_JSON, Some(OCI_CONFIG_NAME))
}

/// The bytes of the first object of that type and name; one that is too long is passed over.
fn object(sif: &Sif, whole: &Source, wanted: DataType, name: Option<&str>) -> Result<Option<Vec<u8>>> {
    let found = sif.descriptors.iter().find(|object| {
        object.data_type == wanted
            && name.is_none_or(|name| object.name == name)
            && object.size <= OBJECT_LIMIT
    });
    let Some(found) = found else { return Ok(None) };
    let mut bytes = vec![0; found.size as usize];
    whole
        .read_exact_at(&mut bytes, found.offset)
        .tried(|| format!("cannot read object {} of the SIF file", found.id))?;
    Ok(Some(bytes))
}

/// Reads what a tree says of itself.
///
/// # Errors
/// When a file that is there cannot be read.
pub fn of_tree(tree: &Tree) -> Result<Attributes> {
    let mut apps = BTreeMap::new();
    for name in app_names(tree)? {
        let base = Path::new(APPS).join(&name).join("scif");
        let app = App {
            environment: environment(tree, &base)?,
            labels: labels(tree, &base)?,
            runscript: file(tree, &base.join("runscript"))?,
            startscript: file(tree, &base.join("startscript"))?,
            test: file(tree, &base.join("test"))?,
            helpfile: file(tree, &base.join("runscript.help"))?,
        };
        apps.insert(name, app);
    }
    let base = Path::new(DIRECTORY);
    Ok(Attributes {
        apps,
        environment: environment(tree, base)?,
        labels: labels(tree, base)?,
        runscript: file(tree, &base.join("runscript"))?,
        test: file(tree, &base.join("test"))?,
        helpfile: file(tree, &base.join("runscript.help"))?,
        deffile: file(tree, Path::new(DEFINITION))?,
        startscript: file(tree, &base.join("startscript"))?,
    })
}

/// The names of the apps in a tree, sorted.
///
/// # Errors
/// When the tree cannot be read.
pub fn app_names(tree: &Tree) -> Result<Vec<String>> {
    let directory =
        |path: &Path| Ok(tree.lookup(path)?.is_some_and(|entry| entry.kind == FileKind::Directory));
    if !directory(Path::new(APPS))? {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for name in tree.list(Path::new(APPS))?.into_iter().take(APPS_LIMIT) {
        if let Some(name) = name.to_str()
            && directory(&Path::new(APPS).join(name))?
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The definition in a tree, as it is.
///
/// # Errors
/// When it cannot be read.
pub fn definition(tree: &Tree) -> Result<Option<Vec<u8>>> {
    bytes(tree, Path::new(DEFINITION))
}

/// The scripts that are an image's own, not those that every image has.
fn environment(tree: &Tree, base: &Path) -> Result<Texts> {
    let directory = base.join("env");
    let mut scripts = Texts::new();
    if tree.lookup(&directory)?.is_none_or(|entry| entry.kind != FileKind::Directory) {
        return Ok(scripts);
    }
    for name in tree.list(&directory)? {
        let Some(name) = name.to_str() else { continue };
        let docker = name.starts_with("10-docker") && name.ends_with(".sh");
        let own = name.starts_with('9') && name.ends_with("-environment.sh");
        if docker || own {
            let path = directory.join(name);
            // One that is empty is there all the same.
            if let Some(script) = bytes(tree, &path)? {
                scripts.insert(path.to_string_lossy().into_owned(), text(&script));
            }
        }
    }
    Ok(scripts)
}

/// Labels; a value that is not text is taken as it is written, a file that is no JSON object as none.
fn labels(tree: &Tree, base: &Path) -> Result<Texts> {
    let Some(bytes) = bytes(tree, &base.join("labels.json"))? else { return Ok(Texts::new()) };
    let labels: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(&bytes).ok();
    let text = |(name, value)| match value {
        serde_json::Value::String(text) => (name, text),
        other => (name, other.to_string()),
    };
    Ok(labels.unwrap_or_default().into_iter().map(text).collect())
}

fn file(tree: &Tree, path: &Path) -> Result<String> {
    Ok(bytes(tree, path)?.as_deref().map(text).unwrap_or_default())
}

fn bytes(tree: &Tree, path: &Path) -> Result<Option<Vec<u8>>> {
    match tree.lookup(path)? {
        Some(entry) if entry.kind == FileKind::Regular && entry.size <= TEXT_LIMIT => {
            tree.read(path, TEXT_LIMIT)
        }
        _ => Ok(None),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned()
}

/// The attributes as JSON on one line, as a SIF holds them.
///
/// # Errors
/// None that this type can have.
pub fn to_json(attributes: &Attributes) -> Result<String> {
    let text = serde_json::to_string(&document(attributes)).tried(|| "cannot write metadata".into())?;
    Ok(escaped(&text))
}

/// The attributes as JSON for people, indented with tabs.
///
/// # Errors
/// None that this type can have.
pub fn to_pretty_json(attributes: &Attributes) -> Result<String> {
    let mut bytes = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, tabs);
    document(attributes).serialize(&mut serializer).tried(|| "cannot write metadata".into())?;
    Ok(escaped(&String::from_utf8_lossy(&bytes)))
}

fn document(attributes: &Attributes) -> Document<&Attributes> {
    Document { data: Data { attributes }, kind: "container".to_owned() }
}

/// With what Go's encoder escapes besides; in JSON these characters stand in strings alone.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::image::tree::Directory;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let tree = Tree::Directory(Directory::open(directory.path()).unwrap());
        (directory, tree)
    }

    #[test]
    fn files_of_a_tree_are_its_attributes_in_the_order_of_apptainer() {
        let (_directory, tree) = tree(&[
            (".singularity.d/runscript", "run <&>\n\n"),
            (".singularity.d/startscript", "start"),
            (".singularity.d/test", "test\n"),
            (".singularity.d/runscript.help", "help  \n\n\n"),
            (".singularity.d/Singularity", "From: x\n"),
            (".singularity.d/labels.json", r#"{"b": "2", "A": 1}"#),
            (".singularity.d/env/01-base.sh", "no"),
            (".singularity.d/env/10-docker2singularity.sh", "docker"),
            (".singularity.d/env/90-environment.sh", "own"),
            (".singularity.d/env/91-environment.sh", "\n"),
            (".singularity.d/env/92-environment.sh", ""),
            (".singularity.d/env/93-environment.sh/not-a-file", ""),
            (".singularity.d/env/99-base.sh", "no"),
            ("scif/apps/x/scif/env/90-environment.sh", "app"),
            ("scif/apps/file", "no app"),
        ]);
        let attributes = of_tree(&tree).unwrap();
        assert_eq!(
            to_json(&attributes).unwrap(),
            r#"{"data":{"attributes":{"apps":{"x":{"environment":{"/scif/apps/x/scif/env/90-environment.sh":"app"}}},"#
                .to_owned()
                + r#""environment":{"/.singularity.d/env/10-docker2singularity.sh":"docker","#
                + r#""/.singularity.d/env/90-environment.sh":"own","/.singularity.d/env/91-environment.sh":"","#
                + r#""/.singularity.d/env/92-environment.sh":""},"labels":{"A":"1","b":"2"},"#
                + r#""runscript":"run \u003c\u0026\u003e","test":"test","helpfile":"help  ","deffile":"From: x","#
                + r#""startscript":"start"}},"type":"container"}"#
        );
        let document: Document<Attributes> = serde_json::from_str(&to_json(&attributes).unwrap()).unwrap();
        assert_eq!(document.data.attributes, attributes);
    }

    #[test]
    fn a_tree_that_says_nothing_or_nonsense_has_no_attributes() {
        let (_directory, tree) = tree(&[
            (".singularity.d/labels.json", "[1, 2"),
            (".singularity.d/runscript/not-a-file", ""),
            ("scif/apps", ""),
        ]);
        let attributes = of_tree(&tree).unwrap();
        assert_eq!(attributes, Attributes::default());
        let empty = "{\n\t\"data\": {\n\t\t\"attributes\": {}\n\t},\n\t\"type\": \"container\"\n}";
        assert_eq!(to_pretty_json(&attributes).unwrap(), empty);
    }

    #[test]
    fn text_that_is_too_long_is_no_metadata() {
        let long = "x".repeat(TEXT_LIMIT as usize + 1);
        let (_directory, tree) = tree(&[(".singularity.d/runscript", &long)]);
        assert_eq!(of_tree(&tree).unwrap(), Attributes::default());
    }
}
