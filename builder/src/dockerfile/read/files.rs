//! `ADD` and `COPY`.

use super::super::fault::Fault;
use super::super::flag::{Given, Takes};
use super::super::heredoc;
use super::super::instruction::{Add, Copy, Heredoc, Kind, Sources};
use super::super::limits;
use super::super::node::Node;

const ADD: &[(&str, Takes)] = &[
    ("chown", Takes::One),
    ("chmod", Takes::One),
    ("link", Takes::Bool),
    ("keep-git-dir", Takes::Bool),
    ("checksum", Takes::One),
    ("unpack", Takes::Bool),
    ("exclude", Takes::Many),
];

const COPY: &[(&str, Takes)] = &[
    ("chown", Takes::One),
    ("from", Takes::One),
    ("chmod", Takes::One),
    ("link", Takes::Bool),
    ("exclude", Takes::Many),
    ("parents", Takes::Bool),
];

/// Where to, and what.
fn arguments<'n>(node: &'n Node, name: &str) -> Result<(&'n str, &'n [String]), Fault> {
    let two = node
        .arguments
        .split_last()
        .filter(|(_, from)| !from.is_empty());
    let (dest, from) = two.ok_or_else(|| {
        Fault::new(format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        ))
    })?;
    Ok((dest, from))
}

fn sources(
    node: &Node,
    name: &str,
    (dest, from): (&str, &[String]),
    heredocs: &[Heredoc],
) -> Result<Sources, Fault> {
    if heredoc::read(dest).ok().flatten().is_some() {
        return Err(
            Fault::new(format!("{name} cannot accept a heredoc as a destination"))
                .at(&node.arguments_range),
        );
    }
    let mut sources = Sources {
        paths: Vec::new(),
        documents: Vec::new(),
        dest: dest.to_owned(),
    };
    let mut bytes = 0;
    for source in from {
        match heredoc::read(source) {
            Ok(Some(announced)) => {
                // The last of one name is the file of that name.
                let same = |document: &&Heredoc| document.name == announced.name;
                let raw = heredocs
                    .iter()
                    .rfind(same)
                    .map_or("", |document| &document.raw);
                // A document may be copied by several names that are the same.
                bytes += raw.len();
                if bytes > limits::DOCUMENT_BYTES {
                    let message = format!(
                        "refuse heredocs of more than {} bytes",
                        limits::DOCUMENT_BYTES
                    );
                    return Err(Fault::new(message));
                }
                let raw = raw.to_owned();
                sources.documents.push(Heredoc { raw, ..announced });
            }
            _ => sources.paths.push(source.clone()),
        }
    }
    Ok(sources)
}

pub(super) fn add(node: &Node, heredocs: &[Heredoc]) -> Result<Kind, Fault> {
    let (dest, from) = arguments(node, "ADD")?;
    let given = Given::read(&node.flags, ADD)?;
    let sources = sources(node, "ADD", (dest, from), heredocs)?;
    Ok(Kind::Add(Add {
        sources,
        chown: given.text("chown"),
        chmod: given.text("chmod"),
        link: given.truth("link").unwrap_or_default(),
        keep_git_dir: given.truth("keep-git-dir"),
        checksum: given.text("checksum"),
        unpack: given.truth("unpack"),
        exclude: given.values("exclude"),
    }))
}

pub(super) fn copy(node: &Node, heredocs: &[Heredoc]) -> Result<Kind, Fault> {
    let (dest, from) = arguments(node, "COPY")?;
    let given = Given::read(&node.flags, COPY)?;
    let sources = sources(node, "COPY", (dest, from), heredocs)?;
    Ok(Kind::Copy(Copy {
        sources,
        from: given.text("from"),
        chown: given.text("chown"),
        chmod: given.text("chmod"),
        link: given.truth("link").unwrap_or_default(),
        parents: given.truth("parents").unwrap_or_default(),
        exclude: given.values("exclude"),
    }))
}
