//! `ADD` and `COPY`.

use super::super::fault::Fault;
use super::super::flag::{Given, Takes};
use super::super::heredoc;
use super::super::instruction::{Add, Copy, Heredoc, Kind, Sources};
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

fn sources(node: &Node, name: &str, heredocs: &[Heredoc]) -> Result<Sources, Fault> {
    let Some((dest, from)) = node
        .arguments
        .split_last()
        .filter(|(_, from)| !from.is_empty())
    else {
        return Err(Fault::new(format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        )));
    };
    if heredoc::read(dest).ok().flatten().is_some() {
        return Err(
            Fault::new(format!("{name} cannot accept a heredoc as a destination"))
                .at(&node.arguments_range),
        );
    }
    let mut sources = Sources {
        paths: Vec::new(),
        documents: Vec::new(),
        dest: dest.clone(),
    };
    for source in from {
        match heredoc::read(source) {
            Ok(Some(announced)) => {
                // The last of one name is the file of that name.
                let raw = heredocs
                    .iter()
                    .rev()
                    .find(|document| document.name == announced.name);
                let raw = raw.map(|document| document.raw.clone()).unwrap_or_default();
                sources.documents.push(Heredoc { raw, ..announced });
            }
            _ => sources.paths.push(source.clone()),
        }
    }
    Ok(sources)
}

pub(super) fn add(node: &Node, heredocs: &[Heredoc]) -> Result<Kind, Fault> {
    let sources = sources(node, "ADD", heredocs)?;
    let given = Given::read(&node.flags, ADD)?;
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
    let sources = sources(node, "COPY", heredocs)?;
    let given = Given::read(&node.flags, COPY)?;
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
