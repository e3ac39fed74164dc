//! Which namespaces a container joins: its pod's, but for processes, of which it may see its own or another container's.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::container::{Around, Asked};
use super::pod::{self, Namespaces, Pid};
use crate::proto::v1;
use crate::{Error, ErrorKind, Result};

/// `linux.namespaces`.
pub(super) fn namespaces(asked: &Asked<'_>, around: &Around<'_>) -> Result<Vec<Value>> {
    let (held, pod) = (&around.held, around.pod);
    let mut all = vec![json!({"type": "mount"})];
    let mut join = |kind: &str, path: Option<&PathBuf>| match path {
        Some(path) => {
            all.push(json!({"type": kind, "path": path}));
            Ok(())
        }
        None => Err(Error::new(
            ErrorKind::Internal,
            format!("cannot join the {kind} namespace: nobody knows where it is"),
        )),
    };
    if let Some(options) = asked.namespaces() {
        agrees("network", options.network, held.network)?;
        agrees("ipc", options.ipc, held.ipc)?;
        // Kubelets that know of none say nothing.
        if let Some(user) = &options.userns_options
            && pod::user(Some(user))? != held.user
        {
            return Err(Error::invalid(
                "userns_options: the pod's user namespace has other ids",
            ));
        }
    }
    for (kind, own, path) in [
        ("network", held.network, &pod.namespaces.network),
        ("ipc", held.ipc, &pod.namespaces.ipc),
        ("uts", held.uts, &pod.namespaces.uts),
        ("user", held.user.is_some(), &pod.namespaces.user),
    ] {
        if own {
            join(kind, path.as_ref())?;
        }
    }
    match pid(asked, held)? {
        Sees::Pod => join("pid", pod.namespaces.pid.as_ref())?,
        Sees::Target => join("pid", around.place.target_pid.as_ref())?,
        Sees::Itself => all.push(json!({"type": "pid"})),
        Sees::Node => {}
    }
    // As containerd: on v1, and for privileged containers, the node's tree is seen.
    if around.node.cgroup2 && !asked.security.privileged {
        all.push(json!({"type": "cgroup"}));
    }
    Ok(all)
}

/// A container cannot get out of its pod: it has what the pod has.
fn agrees(what: &str, value: i32, own: bool) -> Result<()> {
    match (pod::mode(what, value)?, own) {
        (v1::NamespaceMode::Pod, _) | (v1::NamespaceMode::Node, false) => Ok(()),
        (v1::NamespaceMode::Node, true) => Err(Error::invalid(format!(
            "namespace_options.{what}: NODE is asked for, but the pod has a namespace of its own"
        ))),
        (other, _) => Err(pod::not_for(what, other)),
    }
}

/// Whose processes a container sees.
enum Sees {
    Pod,
    Target,
    Itself,
    Node,
}

fn pid(asked: &Asked<'_>, held: &Namespaces) -> Result<Sees> {
    let of_pod = match held.pid {
        Pid::Pod => Sees::Pod,
        Pid::Container => Sees::Itself,
        Pid::Node => Sees::Node,
    };
    let Some(options) = asked.namespaces() else {
        return Ok(of_pod);
    };
    let refused = |text: &str| Err(Error::invalid(format!("namespace_options.pid: {text}")));
    match (pod::mode("pid", options.pid)?, held.pid) {
        (v1::NamespaceMode::Pod, Pid::Container) => {
            refused("POD is asked for, but the pod was made with CONTAINER")
        }
        (v1::NamespaceMode::Pod, _) | (v1::NamespaceMode::Node, Pid::Node) => Ok(of_pod),
        (v1::NamespaceMode::Node, _) => {
            refused("NODE is asked for, but the pod was made without it")
        }
        (v1::NamespaceMode::Container, _) => Ok(Sees::Itself),
        (v1::NamespaceMode::Target, _) => Ok(Sees::Target),
    }
}
