use super::*;

use crate::proto::v1alpha1::{
    CdiDevice, Container, Field, Hook, Hooks, HugepageLimit, KeyValue, LinuxContainerAdjustment,
    LinuxCpu, LinuxDevice, LinuxMemory, LinuxNamespace, LinuxNetDevice, LinuxPids, LinuxRdt, Mount,
    OptionalBool, OptionalInt, OptionalInt64, OptionalRepeatedString, OptionalString,
    OptionalUInt64, PosixRlimit,
};

mod conflicts;
mod updates;

type Adjust = ContainerAdjustment;

type Linux = LinuxContainerAdjustment;

fn env(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

fn mount(destination: &str, source: &str) -> Mount {
    Mount {
        destination: destination.to_owned(),
        source: source.to_owned(),
        ..Mount::default()
    }
}

fn device(path: &str, minor: i64) -> LinuxDevice {
    LinuxDevice {
        path: path.to_owned(),
        minor,
        ..LinuxDevice::default()
    }
}

fn rlimit(name: &str, soft: u64) -> PosixRlimit {
    PosixRlimit {
        r#type: name.to_owned(),
        hard: soft,
        soft,
    }
}

fn namespace(kind: &str, path: &str) -> LinuxNamespace {
    LinuxNamespace {
        r#type: kind.to_owned(),
        path: path.to_owned(),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn pairs<V: Clone>(pairs: &[(&str, V)]) -> BTreeMap<String, V> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect()
}

fn linux(linux: Linux) -> Adjust {
    Adjust {
        linux: Some(linux),
        ..Adjust::default()
    }
}

/// A container that has one of everything.
fn container() -> Container {
    Container {
        id: "c".to_owned(),
        annotations: pairs(&[("a", "own".to_owned())]),
        args: words(&["own"]),
        env: words(&["A=own", "B=own=1", "C"]),
        mounts: vec![mount("/m", "own"), mount("/n", "own")],
        rlimits: vec![rlimit("RLIMIT_CORE", 1)],
        linux: Some(crate::proto::v1alpha1::LinuxContainer {
            devices: vec![device("/dev/d", 1)],
            namespaces: vec![namespace("pid", ""), namespace("ipc", "")],
            sysctl: pairs(&[("s", "own".to_owned())]),
            ..Default::default()
        }),
        ..Container::default()
    }
}

/// Joins what plugins 10-a, 20-b, ... want; the container as the next one would see it, and the result.
fn join(wanted: Vec<Adjust>) -> Result<(Container, Adjust, OwningPlugins)> {
    let mut creation = Creation::new(CreateContainerRequest {
        pod: None,
        container: Some(container()),
    });
    for (name, adjust) in ["10-a", "20-b", "30-c"].into_iter().zip(wanted) {
        let answer = CreateContainerResponse {
            adjust: Some(adjust),
            ..CreateContainerResponse::default()
        };
        creation.add(name, answer)?;
    }
    let seen = creation.request.container.clone().unwrap();
    let (answer, owners) = creation.finish();
    Ok((seen, answer.adjust.unwrap(), owners))
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn lists_with_keys_are_set_replaced_and_removed() {
    // What plugins want of variables: each a list of keys and values.
    type Pairs<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(&[Pairs<'_>], &[&str], Pairs<'_>)] = &[
        (
            &[&[("N", "1")]],
            &["A=own", "B=own=1", "C", "N=1"],
            &[("N", "1")],
        ),
        (&[&[("B", "1")]], &["A=own", "C", "B=1"], &[("B", "1")]),
        (
            &[&[("C", "1")]],
            &["A=own", "B=own=1", "C=1"],
            &[("C", "1")],
        ),
        (&[&[("-A", "")]], &["B=own=1", "C"], &[("-A", "")]),
        // Removed and set by one is set.
        (
            &[&[("A", "1"), ("-A", "")]],
            &["B=own=1", "C", "A=1"],
            &[("A", "1")],
        ),
        // Another's is taken away, for good or to be set.
        (
            &[&[("N", "1")], &[("-N", "")]],
            &["A=own", "B=own=1", "C"],
            &[("-N", "")],
        ),
        (
            &[&[("N", "1")], &[("-N", ""), ("N", "2")]],
            &["A=own", "B=own=1", "C", "N=2"],
            &[("N", "2")],
        ),
        // What nobody set and one removes another may set.
        (
            &[&[("-A", "")], &[("A", "2")]],
            &["B=own=1", "C", "A=2"],
            &[("-A", ""), ("A", "2")],
        ),
        (
            &[&[("-A", "")], &[("-A", "")]],
            &["B=own=1", "C"],
            &[("-A", "")],
        ),
    ];
    for (wanted, seen, collected) in cases {
        let variables = |list: &[(&str, &str)]| -> Vec<KeyValue> {
            list.iter().map(|(key, value)| env(key, value)).collect()
        };
        let wanted = wanted.iter().map(|list| Adjust {
            env: variables(list),
            ..Adjust::default()
        });
        let (container, adjust, _) = join(wanted.collect()).unwrap();
        assert_eq!(container.env, *seen);
        assert_eq!(adjust.env, variables(collected));
    }
    // Mounts and devices go by the same rules.
    let first = Adjust {
        mounts: vec![mount("/m", "1"), mount("/x", "1")],
        ..linux(Linux {
            devices: vec![device("/dev/x", 7), device("-/dev/d", 0)],
            ..Linux::default()
        })
    };
    let second = Adjust {
        mounts: vec![mount("-/x", ""), mount("-/n", ""), mount("/y", "2")],
        ..linux(Linux {
            devices: vec![device("-/dev/x", 0), device("/dev/x", 8)],
            ..Linux::default()
        })
    };
    let (container, adjust, _) = join(vec![first, second]).unwrap();
    assert_eq!(container.mounts, [mount("/m", "1"), mount("/y", "2")]);
    assert_eq!(
        adjust.mounts,
        [
            mount("/m", "1"),
            mount("-/x", ""),
            mount("-/n", ""),
            mount("/y", "2")
        ]
    );
    assert_eq!(container.linux.unwrap().devices, [device("/dev/x", 8)]);
    assert_eq!(
        adjust.linux.unwrap().devices,
        [device("-/dev/d", 0), device("/dev/x", 8)]
    );
}

#[test]
fn maps_are_set_replaced_and_removed() {
    let texts = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
        let list = list.iter();
        list.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    type Texts<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(&[Texts<'_>], Texts<'_>, Texts<'_>)] = &[
        (&[&[("n", "1")]], &[("a", "own"), ("n", "1")], &[("n", "1")]),
        (&[&[("a", "1")]], &[("a", "1")], &[("a", "1")]),
        (&[&[("-a", "")]], &[], &[("-a", "")]),
        (&[&[("-a", ""), ("a", "1")]], &[("a", "1")], &[("a", "1")]),
        (
            &[&[("n", "1")], &[("-n", "")]],
            &[("a", "own")],
            &[("-n", "")],
        ),
        (
            &[&[("n", "1")], &[("-n", ""), ("n", "2")]],
            &[("a", "own"), ("n", "2")],
            &[("n", "2")],
        ),
        (
            &[&[("-a", "")], &[("a", "2")]],
            &[("a", "2")],
            &[("a", "2")],
        ),
    ];
    for (wanted, seen, collected) in cases {
        let of = |list: &&[(&str, &str)]| Adjust {
            annotations: texts(list),
            ..Adjust::default()
        };
        let (container, adjust, _) = join(wanted.iter().map(of).collect()).unwrap();
        assert_eq!(container.annotations, texts(seen));
        assert_eq!(adjust.annotations, texts(collected));
    }
    let device = |name: &str| LinuxNetDevice {
        name: name.to_owned(),
    };
    let first = linux(Linux {
        sysctl: texts(&[("-s", ""), ("t", "1")]),
        net_devices: pairs(&[("eth5", device("eth1")), ("eth6", device("eth2"))]),
        ..Linux::default()
    });
    let second = linux(Linux {
        net_devices: pairs(&[("-eth6", device(""))]),
        ..Linux::default()
    });
    let (container, adjust, _) = join(vec![first, second]).unwrap();
    let (seen, collected) = (container.linux.unwrap(), adjust.linux.unwrap());
    assert_eq!(seen.sysctl, texts(&[("t", "1")]));
    assert_eq!(collected.sysctl, texts(&[("-s", ""), ("t", "1")]));
    assert_eq!(seen.net_devices, pairs(&[("eth5", device("eth1"))]));
    assert_eq!(
        collected.net_devices,
        pairs(&[("-eth6", device("")), ("eth5", device("eth1"))])
    );
}

#[test]
fn arguments_are_set_once_or_taken_over() {
    let args = |list: &[&str]| Adjust {
        args: words(list),
        ..Adjust::default()
    };
    let (container, adjust, _) = join(vec![args(&["a", "b"])]).unwrap();
    assert_eq!(
        (container.args, adjust.args),
        (words(&["a", "b"]), words(&["a", "b"]))
    );
    let (_, adjust, _) = join(vec![args(&["a"]), args(&["", "b"])]).unwrap();
    assert_eq!(adjust.args, ["b"]);
    assert!(join(vec![args(&["a"]), args(&["b"])]).is_err());
    assert!(join(vec![args(&["", "a"]), args(&["b"])]).is_err());
}

#[test]
fn hooks_of_all_plugins_come_one_after_the_other() {
    let hook = |path: &str| Hook {
        path: path.to_owned(),
        ..Hook::default()
    };
    let hooks = |name: &str| Adjust {
        hooks: Some(Hooks {
            prestart: vec![hook(name)],
            create_runtime: vec![hook(name)],
            create_container: vec![hook(name)],
            start_container: vec![hook(name)],
            poststart: vec![hook(name)],
            poststop: vec![hook(name)],
        }),
        ..Adjust::default()
    };
    let (container, adjust, owners) = join(vec![hooks("/1"), hooks("/2")]).unwrap();
    let both = || vec![hook("/1"), hook("/2")];
    let expected = Hooks {
        prestart: both(),
        create_runtime: both(),
        create_container: both(),
        start_container: both(),
        poststart: both(),
        poststop: both(),
    };
    assert_eq!(container.hooks.as_ref(), Some(&expected));
    assert_eq!(adjust.hooks.as_ref(), Some(&expected));
    let owner = &owners.owners["c"].simple[&(Field::OciHooks as i32)];
    assert_eq!(owner, "10-a,20-b");
}

#[test]
fn namespaces_and_limits_replace_those_of_their_kind() {
    let wanted = Adjust {
        rlimits: vec![rlimit("RLIMIT_CORE", 9), rlimit("RLIMIT_CPU", 9)],
        ..linux(Linux {
            namespaces: vec![namespace("-ipc", ""), namespace("pid", "/p")],
            ..Linux::default()
        })
    };
    let (container, adjust, _) = join(vec![wanted.clone()]).unwrap();
    assert_eq!(container.rlimits, wanted.rlimits);
    assert_eq!(adjust.rlimits, wanted.rlimits);
    assert_eq!(
        container.linux.unwrap().namespaces,
        [namespace("pid", "/p")]
    );
    assert_eq!(
        adjust.linux.unwrap().namespaces,
        wanted.linux.unwrap().namespaces
    );
}

#[test]
fn rdt_is_set_in_parts_and_taken_over_by_who_removes_it() {
    let rdt = |class: Option<&str>, schemata: Option<&[&str]>, remove| {
        linux(Linux {
            rdt: Some(LinuxRdt {
                clos_id: class.map(|class| OptionalString {
                    value: class.to_owned(),
                }),
                schemata: schemata.map(|list| OptionalRepeatedString { value: words(list) }),
                enable_monitoring: None,
                remove,
            }),
            ..Linux::default()
        })
    };
    let collected = |adjust: Adjust| adjust.linux.unwrap().rdt.unwrap();
    let first = rdt(Some("gold"), None, false);
    let (_, adjust, _) = join(vec![first.clone(), rdt(None, Some(&["L3:0=f"]), false)]).unwrap();
    let both = rdt(Some("gold"), Some(&["L3:0=f"]), false);
    assert_eq!(collected(adjust), both.linux.unwrap().rdt.unwrap());
    assert!(join(vec![first.clone(), rdt(Some("tin"), None, false)]).is_err());
    let third = rdt(Some("tin"), None, true);
    let (_, adjust, _) = join(vec![first.clone(), third.clone()]).unwrap();
    assert_eq!(collected(adjust), third.linux.unwrap().rdt.unwrap());
    let (_, adjust, _) = join(vec![first, rdt(None, None, true)]).unwrap();
    assert_eq!(
        collected(adjust),
        rdt(None, None, true).linux.unwrap().rdt.unwrap()
    );
}

/// All limits there are, each with this number.
fn everything(number: i64) -> LinuxResources {
    let signed = Some(OptionalInt64 { value: number });
    let unsigned = Some(OptionalUInt64 {
        value: number.cast_unsigned(),
    });
    let text = Some(OptionalString {
        value: number.to_string(),
    });
    LinuxResources {
        memory: Some(LinuxMemory {
            limit: signed,
            reservation: signed,
            swap: signed,
            kernel: signed,
            kernel_tcp: signed,
            swappiness: unsigned,
            disable_oom_killer: Some(OptionalBool { value: true }),
            use_hierarchy: Some(OptionalBool { value: true }),
        }),
        cpu: Some(LinuxCpu {
            shares: unsigned,
            quota: signed,
            period: unsigned,
            realtime_runtime: signed,
            realtime_period: unsigned,
            cpus: number.to_string(),
            mems: number.to_string(),
        }),
        hugepage_limits: vec![HugepageLimit {
            page_size: "2MB".to_owned(),
            limit: number.cast_unsigned(),
        }],
        blockio_class: text.clone(),
        rdt_class: text,
        unified: pairs(&[("memory.high", number.to_string())]),
        devices: Vec::new(),
        pids: Some(LinuxPids { limit: number }),
    }
}

fn update(id: &str, resources: LinuxResources, ignore_failure: bool) -> ContainerUpdate {
    ContainerUpdate {
        container_id: id.to_owned(),
        linux: Some(LinuxContainerUpdate {
            resources: Some(resources),
        }),
        ignore_failure,
    }
}

#[test]
fn what_has_no_name_is_refused() {
    for wanted in [
        Adjust {
            env: vec![env("", "x")],
            ..Adjust::default()
        },
        Adjust {
            env: vec![env("-", "")],
            ..Adjust::default()
        },
        Adjust {
            mounts: vec![mount("-", "")],
            ..Adjust::default()
        },
        Adjust {
            annotations: pairs(&[("-", String::new())]),
            ..Adjust::default()
        },
        Adjust {
            annotations: pairs(&[("", String::new())]),
            ..Adjust::default()
        },
    ] {
        let error = join(vec![wanted]).unwrap_err().to_string();
        assert!(
            error.contains("10-a") && error.contains("without a name"),
            "{error}"
        );
    }
}
