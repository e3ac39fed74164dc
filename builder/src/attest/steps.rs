//! The steps of a build as provenance tells them (`mode=max`): what each does, from which line it is, and which
//! layers there were after it. Pure.
//!
//! In the form of BuildKit's `llbDefinition` (`solver/pb/ops.proto`), whose readers connect layers with lines. A
//! step is an instruction here, with as much of an operation as means the same in both: sources, program,
//! variables, directory, user, paths. There is no LLB, so its digests (`digestMapping`) are not there either.

use std::collections::{BTreeMap, BTreeSet};

use rcrun_image::document::Descriptor;
use serde_json::{Map, Value, json};

use super::address::{public, repository};
use super::provenance::Asked;
use crate::context::git;
use crate::context::source::Origin;
use crate::dockerfile::outline::Location;
use crate::dockerfile::{Network, Security, Span};
use crate::graph::{Base, CopyOp, CopySource, Graph, Op, RunMount, RunOp, Source};

/// `NetMode` and `SecurityMode` of LLB.
const HOST: u8 = 1;
const NO_NETWORK: u8 = 2;
const INSECURE: u8 = 1;

/// What is told.
pub(super) struct Told {
    /// `llbDefinition`
    pub(super) definition: Value,
    /// Lines, by step.
    pub(super) locations: Value,
    /// Layers, by step.
    pub(super) layers: Value,
}

/// Something that others depend on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    /// What comes from elsewhere: its address.
    Source(String),
    /// A stage's base image.
    Image(String, usize),
    /// A step of a stage.
    Step(usize, usize),
}

/// All steps that the target needs, each behind those that it needs.
pub(super) fn steps(graph: &Graph, asked: &Asked<'_>) -> Told {
    let teller = Teller { graph, asked };
    let last = teller.last(graph.target);
    let order = teller.order(last.clone());
    let numbers: BTreeMap<&Node, usize> = order.iter().zip(0..).collect();
    let input = |node: &Node| format!("step{}:0", numbers[node]);
    let mut definition = Vec::with_capacity(order.len() + 1);
    let mut locations = Map::new();
    let mut layers = Map::new();
    for (number, node) in order.iter().enumerate() {
        let id = format!("step{number}");
        let mut step = teller.operation(node);
        step["id"] = json!(id);
        let inputs: Vec<String> = teller.needs(node).iter().map(input).collect();
        if !inputs.is_empty() {
            step["inputs"] = json!(inputs);
        }
        definition.push(step);
        let place = teller.place(node);
        let place = place.map_or_else(|| json!({}), |span| json!({"locations": [lines(span)]}));
        locations.insert(id, place);
        let chain = teller.layers(node);
        if !chain.is_empty() {
            layers.insert(format!("step{number}:0"), json!([chain]));
        }
    }
    if let Some(last) = &last {
        let id = format!("step{}", order.len());
        definition.push(json!({"id": id, "inputs": [input(last)], "op": {"Op": {}}}));
    }
    Told {
        definition: match definition.is_empty() {
            true => json!({}),
            false => json!({"llbDefinition": definition}),
        },
        locations: Value::Object(locations),
        layers: Value::Object(layers),
    }
}

fn lines(span: Span) -> Value {
    json!(Location::from(span))
}

struct Teller<'a> {
    graph: &'a Graph,
    asked: &'a Asked<'a>,
}

impl Teller<'_> {
    /// What a stage ends with; nothing if it has nothing.
    fn last(&self, mut index: usize) -> Option<Node> {
        loop {
            let stage = &self.graph.stages[index];
            if let Some(last) = stage.steps.len().checked_sub(1) {
                return Some(Node::Step(index, last));
            }
            match &stage.base {
                Base::Stage(upon) => index = *upon,
                _ => return self.base(index),
            }
        }
    }

    /// What a stage begins with.
    fn base(&self, index: usize) -> Option<Node> {
        match &self.graph.stages[index].base {
            Base::Stage(upon) => self.last(*upon),
            Base::Image(base) => {
                let platform = &self.graph.stages[index].platform;
                let of = |other: &crate::graph::Stage| match &other.base {
                    Base::Image(same) => {
                        same.reference == base.reference && other.platform == *platform
                    }
                    _ => false,
                };
                let first = self.graph.stages.iter().position(of);
                Some(Node::Image(self.image(base), first.unwrap_or(index)))
            }
            Base::Tree(_, source) => Some(Node::Source(source.clone())),
            Base::Scratch | Base::Unknown(_) => None,
        }
    }

    fn image(&self, base: &crate::graph::BaseImage) -> String {
        match self.asked.layouts.get(&base.reference) {
            Some(name) => format!("oci-layout://{name}@{}", base.target),
            None => {
                let name = base.reference.split('@').next().unwrap_or_default();
                format!("docker-image://{name}@{}", base.target)
            }
        }
    }

    /// What a node depends on, in order.
    fn needs(&self, node: &Node) -> Vec<Node> {
        let Node::Step(index, number) = node else {
            return Vec::new();
        };
        let before = match number.checked_sub(1) {
            Some(before) => Some(Node::Step(*index, before)),
            None => self.base(*index),
        };
        let mut all: Vec<Node> = before.into_iter().collect();
        let from = |source: &Source| match source {
            Source::Context => Some(Node::Source(self.context())),
            Source::Stage(index) => self.last(*index),
        };
        match &self.graph.stages[*index].steps[*number].op {
            Op::Copy(copy) => all.extend(copy.sources.iter().filter_map(|source| match source {
                CopySource::Path(_) => from(&copy.from),
                CopySource::Inline { .. } => None,
                CopySource::Http(url) => Some(Node::Source(public(url))),
                CopySource::Git(url) => Some(Node::Source(of_git(url))),
            })),
            Op::Run(run) => all.extend(
                run.mounts
                    .iter()
                    .filter_map(RunMount::from)
                    .filter_map(from),
            ),
            Op::Directory { .. } => {}
        }
        let mut seen = BTreeSet::new();
        all.retain(|one| seen.insert(one.clone()));
        all
    }

    /// Everything that leads to a node, each once and behind what it needs. Not recursive: a Dockerfile may
    /// have any number of stages.
    fn order(&self, last: Option<Node>) -> Vec<Node> {
        let mut order = Vec::new();
        let mut done = BTreeSet::new();
        let mut open: Vec<(Node, bool)> = last.into_iter().map(|node| (node, false)).collect();
        while let Some((node, ready)) = open.pop() {
            if done.contains(&node) {
                continue;
            }
            if ready {
                done.insert(node.clone());
                order.push(node);
                continue;
            }
            let needs = self.needs(&node);
            open.push((node, true));
            open.extend(needs.into_iter().rev().map(|need| (need, false)));
        }
        order
    }

    /// Where the context is from.
    fn context(&self) -> String {
        match self.asked.context {
            Origin::Local => "local://context".to_owned(),
            Origin::Commit {
                remote,
                reference,
                subdir,
                ..
            } => git_source(&repository(remote, reference.as_deref(), subdir.as_deref())),
            Origin::File { url, .. } => url.clone(),
        }
    }

    /// The line that a node is from. What comes from this machine is from none.
    fn place(&self, node: &Node) -> Option<Span> {
        match node {
            Node::Step(index, number) => Some(self.graph.stages[*index].steps[*number].span),
            Node::Image(_, index) => Some(self.graph.stages[*index].span),
            Node::Source(_) => None,
        }
    }

    fn operation(&self, node: &Node) -> Value {
        match node {
            Node::Source(identifier) => {
                json!({"op": {"Op": {"source": {"identifier": identifier}}}})
            }
            Node::Image(identifier, index) => {
                let op = json!({"source": {"identifier": identifier}});
                json!({"op": {"Op": op, "platform": self.platform(*index)}})
            }
            Node::Step(index, number) => {
                let op = match &self.graph.stages[*index].steps[*number].op {
                    Op::Copy(copy) => json!({"file": {"actions": actions(copy)}}),
                    Op::Run(run) => {
                        let op = json!({"exec": self.exec(run)});
                        return json!({"op": {"Op": op, "platform": self.platform(*index)}});
                    }
                    Op::Directory { path, .. } => {
                        let mkdir = json!({"path": path, "makeParents": true});
                        json!({"file": {"actions": [{"Action": {"mkdir": mkdir}}]}})
                    }
                };
                json!({"op": {"Op": op}})
            }
        }
    }

    fn platform(&self, index: usize) -> Value {
        let platform = &self.graph.stages[index].platform;
        let mut told = json!({"Architecture": platform.architecture, "OS": platform.os});
        if !platform.variant.is_empty() {
            told["Variant"] = json!(platform.variant);
        }
        told
    }

    fn exec(&self, run: &RunOp) -> Value {
        let directory = match run.directory.as_str() {
            "" => "/",
            directory => directory,
        };
        let mut meta = json!({"args": run.args, "env": run.env, "cwd": directory});
        if !run.user.is_empty() {
            meta["user"] = json!(run.user);
        }
        let mut exec = json!({"meta": meta});
        match run.network {
            Network::None => exec["network"] = json!(NO_NETWORK),
            Network::Default if self.asked.no_network => exec["network"] = json!(NO_NETWORK),
            Network::Default => {}
            Network::Host => exec["network"] = json!(HOST),
        }
        if run.security == Security::Insecure {
            exec["security"] = json!(INSECURE);
        }
        exec
    }

    /// The layers after a node, as far as they are blobs of an image: those of base images, and those that
    /// lead to the result.
    fn layers(&self, node: &Node) -> Vec<Descriptor> {
        match node {
            Node::Source(_) => Vec::new(),
            Node::Image(_, index) => match &self.graph.stages[*index].base {
                Base::Image(base) => base.image.document.layers.clone(),
                _ => Vec::new(),
            },
            Node::Step(index, number) => self.chain(*index, *number).unwrap_or_default(),
        }
    }

    /// A step of a stage that the target is built upon, or of the target. If layers were made one, only the
    /// last step has them.
    fn chain(&self, index: usize, number: usize) -> Option<Vec<Descriptor>> {
        let mut above = self.graph.target;
        let mut after = 0;
        while above != index {
            let stage = &self.graph.stages[above];
            after += stage.steps.len();
            let Base::Stage(upon) = &stage.base else {
                return None;
            };
            above = *upon;
        }
        after += self.graph.stages[index].steps.len() - number - 1;
        let all = self.asked.layers;
        let count = all.len().checked_sub(after)?;
        let whole = after == 0 || all.len() == self.inherited() + self.steps_of_target();
        (whole && count > 0).then(|| all[..count].to_vec())
    }

    /// How many steps lead to the target's layers.
    fn steps_of_target(&self) -> usize {
        self.stages_of_target()
            .map(|index| self.graph.stages[index].steps.len())
            .sum()
    }

    /// How many layers the target did not make.
    fn inherited(&self) -> usize {
        let lowest = self.stages_of_target().last();
        match lowest.map(|index| &self.graph.stages[index].base) {
            Some(Base::Image(base)) => base.image.document.layers.len(),
            Some(Base::Tree(..)) => 1,
            _ => 0,
        }
    }

    /// The target and what it is built upon.
    fn stages_of_target(&self) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(self.graph.target), |index| {
            match &self.graph.stages[*index].base {
                Base::Stage(upon) => Some(*upon),
                _ => None,
            }
        })
    }
}

fn actions(copy: &CopyOp) -> Vec<Value> {
    let dest = &copy.dest;
    let mut actions = Vec::with_capacity(copy.sources.len());
    for source in &copy.sources {
        let copied = |path: &str| json!({"Action": {"copy": {"src": path, "dest": dest}}});
        actions.push(match source {
            CopySource::Path(path) => copied(&format!("/{}", path.trim_start_matches('/'))),
            CopySource::Inline { name, .. } => {
                let path = match dest.ends_with('/') {
                    true => format!("{dest}{name}"),
                    false => dest.clone(),
                };
                json!({"Action": {"mkfile": {"path": path}}})
            }
            CopySource::Http(url) => copied(&format!("/{}", crate::context::http::name_of(url))),
            CopySource::Git(_) => copied("/"),
        });
    }
    actions
}

/// A repository as `ADD` names it, to be published.
fn of_git(url: &str) -> String {
    match git::parse(url) {
        Ok(Some(address)) => git_source(&repository(
            &address.shown(),
            address.reference.as_deref(),
            address.subdir.as_deref(),
        )),
        _ => public(url),
    }
}

/// The scheme of all repositories is `git` there, and users are not part of it.
fn git_source(url: &str) -> String {
    let Some((_, rest)) = url.split_once("://") else {
        return format!("git://{url}");
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let user = rest[..end].rfind('@').map_or(0, |at| at + 1);
    format!("git://{}", &rest[user..])
}
