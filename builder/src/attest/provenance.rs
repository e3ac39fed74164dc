//! SLSA provenance, v1 and v0.2: what an image was built from, and how it was asked for. Pure.
//!
//! Fields, and what stands in them, are BuildKit's (docs/attestations/slsa-definitions.md, `solver/llbsolver/provenance`),
//! so that its readers find them; docs/attestations.md says where we differ, and why.

use std::collections::{BTreeMap, BTreeSet};

use rcrun_image::document::Descriptor;
use rcrun_image::reference::Reference;
use serde_json::{Map, Value, json};

use super::address::image;
use super::steps;
use crate::context::source::Origin;
use crate::dockerfile::Network;
use crate::export::time::rfc3339;
use crate::graph::{Base, BaseImage, Graph, Op, RunMount, RunOp};
use crate::solve::{Kind, Material};

/// The version of `docker/dockerfile` whose language this is.
pub const DOCKERFILE: &str = "1.26.0";
/// What git is shown of servers' secrets, if they are there (BuildKit's names).
const OF_GIT: [&str; 2] = ["GIT_AUTH_HEADER", "GIT_AUTH_TOKEN"];
/// The agent that is meant where none is named.
const AGENT: &str = "default";
/// The scheme of images in layouts.
const LAYOUT: &str = "oci-layout://";

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What went in.
    Min,
    /// Also values of arguments, labels, which secrets and agents, the steps and the Dockerfile.
    Max,
}

/// Which of SLSA's formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// <https://slsa.dev/spec/v0.2/provenance>
    V02,
    /// <https://slsa.dev/spec/v1.1/provenance>
    V1,
}

impl Version {
    /// The type of the predicate.
    pub fn predicate(self) -> &'static str {
        match self {
            Self::V02 => "https://slsa.dev/provenance/v0.2",
            Self::V1 => "https://slsa.dev/provenance/v1",
        }
    }

    /// What the fields mean: BuildKit's definition of them, which is followed here.
    fn build_type(self) -> &'static str {
        match self {
            Self::V02 => "https://mobyproject.org/buildkit@v1",
            Self::V1 => {
                "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"
            }
        }
    }
}

/// What is only known of this one build. Without it the same build gives the same statement.
#[derive(Debug, Clone)]
pub struct Moment {
    /// Nothing else is called that.
    pub id: String,
    /// When it began, seconds since 1970.
    pub began: i64,
    /// When it ended.
    pub ended: i64,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// In which format.
    pub version: Version,
    /// How much is told.
    pub mode: Mode,
    /// `builder.id`
    pub builder: &'a str,
    /// Which program builds, and its version.
    pub program: (&'a str, &'a str),
    /// The user says that it gives the same every time.
    pub reproducible: bool,
    /// The Dockerfile's name and text.
    pub dockerfile: (&'a str, &'a [u8]),
    /// Where the context is from.
    pub context: &'a Origin,
    /// What else was needed as a context.
    pub contexts: Vec<Origin>,
    /// What came from this machine: `context`, `dockerfile`, and named contexts.
    pub locals: BTreeSet<String>,
    /// What a client of BuildKit would send: `target`, `build-arg:NAME`, `label:NAME`, `context:NAME` and others.
    pub arguments: BTreeMap<String, String>,
    /// What is known of the repository that a local context lies in.
    pub repository: BTreeMap<String, String>,
    /// What images in layouts are called.
    pub layouts: BTreeMap<String, String>,
    /// The machine's.
    pub platform: String,
    /// `--network=none`
    pub no_network: bool,
    /// The layers of the image, if it was written.
    pub layers: &'a [Descriptor],
    /// If that is wanted.
    pub moment: Option<Moment>,
}

/// What both formats say.
struct Said {
    materials: Vec<Value>,
    /// `uri`, `digest` and the Dockerfile's name.
    source: (Map<String, Value>, Value),
    request: Value,
    /// All arguments are told.
    told: bool,
    complete: bool,
    hermetic: bool,
    steps: Option<Value>,
    metadata: Map<String, Value>,
}

/// The predicate.
pub fn predicate(asked: &Asked<'_>, graph: &Graph, materials: &BTreeSet<Material>) -> Value {
    let all = dependencies(asked, graph, materials);
    let (request, told) = request(asked, graph, &all);
    let complete = asked.locals.is_empty();
    let (steps, source) = match asked.mode {
        Mode::Min => (None, None),
        Mode::Max => {
            let told = steps::steps(graph, asked);
            (Some(told.definition), Some((told.locations, told.layers)))
        }
    };
    let said = Said {
        source: (origin(asked.context), json!(asked.dockerfile.0)),
        request,
        told,
        complete,
        hermetic: complete && !uses_network(graph, asked.no_network),
        steps,
        metadata: metadata(asked, source),
        materials: all.iter().map(dependency).collect(),
    };
    match asked.version {
        Version::V1 => first(asked, said),
        Version::V02 => second(asked, said),
    }
}

/// SLSA v1.
fn first(asked: &Asked<'_>, said: Said) -> Value {
    let (mut source, path) = said.source;
    source.insert("path".into(), path);
    let mut internal = json!({
        "builderPlatform": asked.platform,
        "dockerfileVersion": DOCKERFILE,
    });
    if let Some(steps) = said.steps {
        internal["buildConfig"] = steps;
    }
    let mut metadata = json!({
        "buildkit_metadata": said.metadata,
        "buildkit_completeness": {"request": said.told, "resolvedDependencies": said.complete},
    });
    let flags = [
        ("buildkit_hermetic", said.hermetic),
        ("buildkit_reproducible", asked.reproducible),
    ];
    for (name, _) in flags.into_iter().filter(|(_, is)| *is) {
        metadata[name] = json!(true);
    }
    if let Some(moment) = &asked.moment {
        metadata["invocationId"] = json!(moment.id);
        metadata["startedOn"] = json!(rfc3339(moment.began));
        metadata["finishedOn"] = json!(rfc3339(moment.ended));
    }
    let mut definition = json!({
        "buildType": asked.version.build_type(),
        "externalParameters": {"configSource": source, "request": said.request},
        "internalParameters": internal,
    });
    if !said.materials.is_empty() {
        definition["resolvedDependencies"] = json!(said.materials);
    }
    let (program, version) = asked.program;
    json!({
        "buildDefinition": definition,
        "runDetails": {
            "builder": {"id": asked.builder, "version": {program: version}},
            "metadata": metadata,
        },
    })
}

/// SLSA v0.2.
fn second(asked: &Asked<'_>, said: Said) -> Value {
    let (mut source, path) = said.source;
    source.insert("entryPoint".into(), path);
    let mut metadata = json!({
        "completeness": {
            "parameters": said.told, "environment": true, "materials": said.complete,
        },
        "reproducible": asked.reproducible,
        "https://mobyproject.org/buildkit@v1#metadata": said.metadata,
    });
    if said.hermetic {
        metadata["https://mobyproject.org/buildkit@v1#hermetic"] = json!(true);
    }
    if let Some(moment) = &asked.moment {
        metadata["buildInvocationID"] = json!(moment.id);
        metadata["buildStartedOn"] = json!(rfc3339(moment.began));
        metadata["buildFinishedOn"] = json!(rfc3339(moment.ended));
    }
    let mut predicate = json!({
        "builder": {"id": asked.builder},
        "buildType": asked.version.build_type(),
        "invocation": {
            "configSource": source,
            "parameters": said.request,
            "environment": {"platform": asked.platform, "dockerfileVersion": DOCKERFILE},
        },
        "metadata": metadata,
    });
    if !said.materials.is_empty() {
        predicate["materials"] = json!(said.materials);
    }
    if let Some(steps) = said.steps {
        predicate["buildConfig"] = steps;
    }
    predicate
}

fn metadata(asked: &Asked<'_>, source: Option<(Value, Value)>) -> Map<String, Value> {
    let mut metadata = Map::new();
    if !asked.repository.is_empty() {
        metadata.insert("vcs".into(), json!(asked.repository));
    }
    if let Some((locations, layers)) = source {
        let (name, text) = asked.dockerfile;
        let file = json!({"filename": name, "language": "Dockerfile", "data": crate::base64(text)});
        metadata.insert(
            "source".into(),
            json!({"locations": locations, "infos": [file]}),
        );
        if layers.as_object().is_some_and(|layers| !layers.is_empty()) {
            metadata.insert("layers".into(), layers);
        }
    }
    metadata
}

fn origin(context: &Origin) -> Map<String, Value> {
    let mut source = Map::new();
    if let (Some(uri), Some(material)) = (context.uri(), context.material()) {
        source.insert("uri".into(), json!(uri));
        source.insert(
            "digest".into(),
            json!({material.algorithm: material.digest}),
        );
    }
    source
}

fn dependency(one: &Material) -> Value {
    json!({"uri": one.uri, "digest": {one.algorithm.as_str(): one.digest}})
}

/// Images by their names, repositories and files, in this order.
fn dependencies(asked: &Asked<'_>, graph: &Graph, materials: &BTreeSet<Material>) -> Vec<Material> {
    let needed = graph.stages.iter().filter(|stage| stage.needed);
    let bases: Vec<(&BaseImage, String)> = needed
        .filter_map(|stage| match &stage.base {
            Base::Image(base) => Some((&**base, stage.platform.to_string())),
            _ => None,
        })
        .collect();
    let mut images = BTreeMap::new();
    for (base, platform) in &bases {
        // One image by its tag and by its digest is one.
        let pinned = |name: &Reference| name.digest().is_some();
        let same = |(other, of): &(&BaseImage, String)| {
            let tags = (tag_of(&base.reference), tag_of(&other.reference));
            of == platform
                && other.target == base.target
                && matches!(tags, (Some(one), Some(other)) if one == other)
                && other
                    .reference
                    .parse()
                    .is_ok_and(|name: Reference| !pinned(&name))
        };
        let name = base.reference.parse::<Reference>();
        if !name.is_ok_and(|name| pinned(&name)) || !bases.iter().any(same) {
            let material = base_image(base, platform, &asked.layouts);
            images.insert((&base.reference, platform), material);
        }
    }
    let mut others = materials.clone();
    others.extend(asked.context.material());
    others.extend(asked.contexts.iter().filter_map(Origin::material));
    images.into_values().chain(others).collect()
}

/// Name and tag, which is `latest` where there is none.
fn tag_of(reference: &str) -> Option<(String, String)> {
    let name: Reference = reference.parse().ok()?;
    Some((
        name.familiar_name(),
        name.tag().unwrap_or("latest").to_owned(),
    ))
}

fn base_image(base: &BaseImage, platform: &str, layouts: &BTreeMap<String, String>) -> Material {
    let target = &base.target;
    let uri = if base.reference.starts_with(LAYOUT) {
        // What the build calls it, and not where it lies on this machine.
        let name = layouts.get(&base.reference).map_or("", String::as_str);
        image("oci", name, None, Some(target), platform)
    } else {
        match base.reference.parse::<Reference>() {
            Ok(name) => image(
                "docker",
                &name.familiar_name(),
                name.tag(),
                name.digest(),
                platform,
            ),
            Err(_) => image("docker", &base.reference, None, None, platform),
        }
    };
    Material::image(uri, target)
}

/// What was asked for, and whether all of it is told.
fn request(asked: &Asked<'_>, graph: &Graph, materials: &[Material]) -> (Value, bool) {
    let all = asked.mode == Mode::Max;
    let secret = |name: &String| name.starts_with("build-arg:") || name.starts_with("label:");
    let told = all || !asked.arguments.keys().any(secret);
    let mut request = json!({"frontend": "dockerfile.v0"});
    let arguments: BTreeMap<_, _> = asked
        .arguments
        .iter()
        .filter(|(name, _)| all || !secret(name))
        .collect();
    if !arguments.is_empty() {
        request["args"] = json!(arguments);
    }
    if all {
        let (secrets, agents) = entrusted(graph, materials);
        for (name, list) in [("secrets", secrets), ("ssh", agents)] {
            if !list.is_empty() {
                request[name] = list.into_iter().map(access).collect();
            }
        }
    }
    if !asked.locals.is_empty() {
        let locals = asked.locals.iter().map(|name| json!({"name": name}));
        request["locals"] = locals.collect();
    }
    (request, told)
}

/// Something that steps may use, and whether they can do without.
fn access((id, optional): (String, bool)) -> Value {
    match optional {
        true => json!({"id": id, "optional": true}),
        false => json!({"id": id}),
    }
}

type Accesses = BTreeMap<String, bool>;

/// Secrets and agents that steps ask for, whether they were given or not.
fn entrusted(graph: &Graph, materials: &[Material]) -> (Accesses, Accesses) {
    let (mut secrets, mut agents) = (BTreeMap::new(), BTreeMap::new());
    let add = |all: &mut Accesses, id: &str, optional: bool| {
        let known = all.entry(id.to_owned()).or_insert(true);
        *known &= optional;
    };
    for mount in runs(graph).flat_map(|run| &run.mounts) {
        match mount {
            RunMount::Secret { id, required, .. } => add(&mut secrets, id, !required),
            RunMount::Ssh { id, required, .. } => {
                let id = match id.as_str() {
                    "" => AGENT,
                    id => id,
                };
                add(&mut agents, id, !required);
            }
            _ => {}
        }
    }
    for commit in materials.iter().filter(|one| one.kind == Kind::Commit) {
        match commit.uri.split_once("://") {
            Some(("http" | "https", _)) => OF_GIT.map(|id| add(&mut secrets, id, true)),
            Some(("ssh", _)) | None => [(); 2].map(|()| add(&mut agents, AGENT, true)),
            Some(_) => continue,
        };
    }
    (secrets, agents)
}

fn runs(graph: &Graph) -> impl Iterator<Item = &RunOp> {
    let needed = graph.stages.iter().filter(|stage| stage.needed);
    let steps = needed.flat_map(|stage| &stage.steps);
    steps.filter_map(|step| match &step.op {
        Op::Run(run) => Some(&**run),
        _ => None,
    })
}

/// Whether a step could reach others.
fn uses_network(graph: &Graph, no_network: bool) -> bool {
    runs(graph).any(|run| match run.network {
        Network::None => false,
        Network::Default => !no_network,
        Network::Host => true,
    })
}

#[cfg(test)]
mod tests;
