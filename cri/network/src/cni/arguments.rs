//! What plugins are told of an attachment: on standard input (section 3, "Deriving request
//! configuration") and in the environment. Pure.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::cache::Attachment;
use crate::request::{Port, Request};

/// The configuration of one call.
pub(super) fn told(
    attachment: &Attachment,
    plugin: &Map<String, Value>,
    previous: Option<&Value>,
) -> Value {
    let mut told = attachment.configuration.told(plugin);
    let has = plugin.get("capabilities").and_then(Value::as_object);
    let wanted = |name: &str| has.and_then(|has| has.get(name)) == Some(&Value::Bool(true));
    let given: Map<String, Value> = attachment
        .capabilities
        .iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !given.is_empty() {
        told.insert("runtimeConfig".into(), given.into());
    }
    if let Some(previous) = previous {
        told.insert("prevResult".into(), previous.clone());
    }
    told.into()
}

/// The environment of one call. `namespace`: other than at the time of ADD.
pub(super) fn environment(
    attachment: &Attachment,
    namespace: Option<&Path>,
) -> Vec<(&'static str, String)> {
    let namespace = namespace.unwrap_or(&attachment.namespace);
    let pair = |(name, value): &(String, String)| format!("{name}={value}");
    let arguments: Vec<_> = attachment.arguments.iter().map(pair).collect();
    vec![
        ("CNI_CONTAINERID", attachment.key.id().to_owned()),
        ("CNI_IFNAME", attachment.key.interface().to_owned()),
        ("CNI_NETNS", namespace.to_string_lossy().into_owned()),
        ("CNI_ARGS", arguments.join(";")),
    ]
}

/// `CNI_ARGS`, as kubelet's networks know them.
pub(super) fn arguments(request: &Request<'_>) -> Vec<(String, String)> {
    let mut list = vec![("IgnoreUnknown".to_owned(), "1".to_owned())];
    if let Some(pod) = request.pod {
        for (name, value) in [
            ("K8S_POD_NAMESPACE", pod.namespace),
            ("K8S_POD_NAME", pod.name),
            ("K8S_POD_INFRA_CONTAINER_ID", request.key.id()),
            ("K8S_POD_UID", pod.uid),
        ] {
            list.push((name.to_owned(), value.to_owned()));
        }
    }
    list.extend(request.arguments.iter().cloned());
    list
}

/// Everything that a plugin may have a capability for (CONVENTIONS.md of CNI).
pub(super) fn capabilities(request: &Request<'_>) -> Map<String, Value> {
    let mut all = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            all.insert(name.to_owned(), value);
        }
    };
    let some = |list: Vec<Value>| (!list.is_empty()).then_some(Value::Array(list));
    put(
        "portMappings",
        some(request.ports.iter().map(mapping).collect()),
    );
    put("bandwidth", bandwidth(request));
    put(
        "dns",
        request.dns.as_ref().map(|dns| {
            json!({"servers": dns.nameservers, "searches": dns.search, "options": dns.options})
        }),
    );
    let text = |address: &std::net::IpAddr| Value::from(address.to_string());
    put("ips", some(request.addresses.iter().map(text).collect()));
    put("mac", request.mac.clone().map(Value::from));
    put("cgroupPath", request.cgroup.clone().map(Value::from));
    put(
        "infinibandGUID",
        request.infiniband.clone().map(Value::from),
    );
    all
}

fn mapping(port: &Port) -> Value {
    let address = port.address.map(|address| address.to_string());
    json!({
        "hostPort": port.host,
        "containerPort": port.container,
        "protocol": port.protocol.name(),
        "hostIP": address.unwrap_or_default(),
    })
}

fn bandwidth(request: &Request<'_>) -> Option<Value> {
    let mut limits = Map::new();
    let both = [
        ("ingress", request.bandwidth.ingress),
        ("egress", request.bandwidth.egress),
    ];
    for (name, limit) in both {
        if let Some((rate, burst)) = limit {
            limits.insert(format!("{name}Rate"), rate.into());
            limits.insert(format!("{name}Burst"), burst.into());
        }
    }
    (!limits.is_empty()).then(|| limits.into())
}
