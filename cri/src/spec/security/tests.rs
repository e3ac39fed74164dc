use rcrun_runtime::template::capabilities::of_mask;

use super::*;

fn given(kind: i32, local: &str) -> v1::SecurityProfile {
    v1::SecurityProfile {
        profile_type: kind,
        localhost_ref: local.into(),
    }
}

fn node() -> Node {
    Node {
        kernel: (6, 1),
        capabilities: of_mask(u64::MAX >> 23),
        seccomp: true,
        apparmor: Some(Some("rcrun-default".into())),
        selinux: true,
        ..Node::default()
    }
}

#[test]
fn profiles_of_system_calls() {
    let file = Profile::Local("/profiles/p.json".into());
    for (new, old, expected) in [
        (None, "", Some(Profile::Unconfined)),
        (None, "unconfined", Some(Profile::Unconfined)),
        (None, "runtime/default", Some(Profile::Default)),
        (None, "docker/default", Some(Profile::Default)),
        (None, "localhost//profiles/p.json", Some(file.clone())),
        (None, "localhost/", None),
        (None, "localhost/p.json", None),
        (None, "Unconfined", None),
        (Some(given(0, "")), "unconfined", Some(Profile::Default)),
        (Some(given(1, "")), "", Some(Profile::Unconfined)),
        (Some(given(2, "/profiles/p.json")), "", Some(file)),
        (Some(given(2, "")), "", None),
        (Some(given(2, "p.json")), "", None),
        (Some(given(0, "/profiles/p.json")), "", None),
        (Some(given(3, "")), "", None),
        (Some(given(-1, "")), "", None),
    ] {
        let found = seccomp_profile(new.as_ref(), old);
        assert_eq!(found.ok(), expected, "{new:?} {old}");
    }
}

/// GHSA-7236 of BuildKit: a mode that is not known is an error, never none.
#[test]
fn ghsa_7236_unknown_profiles_fail_closed() {
    for kind in [3, 99, i32::MAX, -1] {
        seccomp_profile(Some(&given(kind, "")), "").unwrap_err();
        apparmor_profile(Some(&given(kind, "")), "").unwrap_err();
    }
    let bare = Node::default();
    let none = BTreeSet::new();
    for profile in [Profile::Default, Profile::Local("/p".into())] {
        seccomp(&profile, Some(b"{}"), &none, &bare).unwrap_err();
    }
    assert_eq!(
        seccomp(&Profile::Unconfined, None, &none, &bare).unwrap(),
        None
    );
}

#[test]
fn filters() {
    let none = BTreeSet::new();
    let made = |profile: &Profile, text| seccomp(profile, text, &none, &node());
    let default = made(&Profile::Default, None).unwrap().unwrap();
    assert_eq!(default["defaultAction"], "SCMP_ACT_ERRNO");
    let local = Profile::Local("/p.json".into());
    let own = made(&local, Some(br#"{"defaultAction":"SCMP_ACT_LOG"}"#));
    assert_eq!(own.unwrap().unwrap()["defaultAction"], "SCMP_ACT_LOG");
    for text in [None, Some(&b"no profile"[..])] {
        let message = made(&local, text).unwrap_err().chain().to_string();
        assert!(message.contains("/p.json"), "{message}");
    }
}

#[test]
fn profiles_of_apparmor() {
    let name = |name: &str| Some(name.to_owned());
    for (new, old, with, without) in [
        (None, "", Some(name("rcrun-default")), Some(None)),
        (
            None,
            "runtime/default",
            Some(name("rcrun-default")),
            Some(None),
        ),
        (None, "unconfined", Some(None), Some(None)),
        (None, "localhost/web", Some(name("web")), None),
        (Some(given(2, "localhost/web")), "", Some(name("web")), None),
        (Some(given(2, "web")), "", Some(name("web")), None),
        (Some(given(1, "")), "", Some(None), Some(None)),
        (Some(given(2, "localhost/")), "", None, None),
        (Some(given(2, "a\nb")), "", None, None),
        (None, "web", None, None),
    ] {
        let found = |node: &Node| apparmor(apparmor_profile(new.as_ref(), old)?.as_ref(), node);
        assert_eq!(found(&node()).ok(), with, "{new:?} {old}");
        assert_eq!(found(&Node::default()).ok(), without, "{new:?} {old}");
        // AppArmor is on, and the default could not be loaded: who relies on it is told.
        let asks = old == "runtime/default";
        let bare = Node {
            apparmor: Some(None),
            ..Node::default()
        };
        let unconfined = match with {
            Some(Some(profile)) if profile == "rcrun-default" => (!asks).then_some(None),
            other => other,
        };
        assert_eq!(found(&bare).ok(), unconfined, "{new:?} {old}");
    }
}

fn sets(add: &str, drop: &str, ambient: &str, privileged: bool) -> Result<(usize, String)> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let asked = v1::Capability {
        add_capabilities: words(add),
        drop_capabilities: words(drop),
        add_ambient_capabilities: words(ambient),
    };
    let found = capabilities(Some(&asked), privileged, &node().capabilities)?;
    let ambient: Vec<_> = found.ambient.into_iter().collect();
    Ok((found.bounding.len(), ambient.join(" ")))
}

#[test]
fn capability_sets() {
    for (add, drop, ambient, privileged, expected) in [
        ("", "", "", false, (14, "")),
        ("NET_ADMIN", "", "", false, (15, "")),
        ("", "KILL", "", false, (13, "")),
        ("ALL", "", "", false, (41, "")),
        ("ALL", "SYS_ADMIN", "", false, (40, "")),
        ("", "ALL", "", false, (0, "")),
        ("NET_BIND_SERVICE", "ALL", "", false, (1, "")),
        ("KILL", "KILL", "", false, (13, "")),
        ("ALL", "ALL", "", false, (0, "")),
        ("ALL CHOWN", "ALL", "", false, (1, "")),
        ("", "ALL", "NET_RAW", false, (1, "CAP_NET_RAW")),
        ("", "ALL", "", true, (41, "")),
    ] {
        let found = sets(add, drop, ambient, privileged).unwrap();
        assert_eq!(
            (found.0, found.1.as_str()),
            expected,
            "+{add} -{drop} ^{ambient}"
        );
    }
    let many = "KILL ".repeat(MOST + 1);
    for (add, drop, ambient) in [
        ("SHINY", "", ""),
        ("", "SHINY", ""),
        ("", "", "SHINY"),
        (&many, "", ""),
    ] {
        sets(add, drop, ambient, false).unwrap_err();
        sets(add, drop, ambient, true).unwrap_err();
    }
}

/// CVE-2022-24769: no inheritable or ambient capabilities by default, not of privileged containers either.
#[test]
fn cve_2022_24769_nothing_is_inherited_unasked() {
    for privileged in [false, true] {
        let found = capabilities(None, privileged, &node().capabilities).unwrap();
        assert!(found.ambient.is_empty());
        assert!(!found.bounding.is_empty());
    }
}

#[test]
fn nobody_gives_what_they_do_not_have() {
    let own = of_mask(0b11);
    let asked = v1::Capability {
        add_capabilities: vec!["SYS_ADMIN".into()],
        ..v1::Capability::default()
    };
    let message = capabilities(Some(&asked), false, &own).unwrap_err();
    assert!(message.to_string().contains("CAP_SYS_ADMIN"), "{message}");
    assert_eq!(capabilities(None, false, &own).unwrap().bounding.len(), 2);
}

fn options(user: &str, role: &str, kind: &str, level: &str) -> v1::SeLinuxOption {
    v1::SeLinuxOption {
        user: user.into(),
        role: role.into(),
        r#type: kind.into(),
        level: level.into(),
    }
}

#[test]
fn labels() {
    for (asked, expected) in [
        (options("", "", "", ""), None),
        (
            options("", "", "", "s0:c1,c2.c9"),
            Some("system_u:system_r:container_t:s0:c1,c2.c9"),
        ),
        (options("u", "r", "t", "s0-s1"), Some("u:r:t:s0-s1")),
    ] {
        let found = selinux(Some(&asked), &node()).unwrap();
        assert_eq!(found.map(|labels| labels.process).as_deref(), expected);
        assert_eq!(selinux(Some(&asked), &Node::default()).unwrap(), None);
    }
    assert_eq!(selinux(None, &node()).unwrap(), None);
    for asked in [
        options("a:b", "", "", ""),
        options("", "r\n", "", ""),
        options("", "", "t t", ""),
        options("", "", "", "s10"),
        options("", "", "", "s0:"),
        options("", "", "", "s0:c1,"),
        options("", "", "", "s0:c12345"),
        options("", "", "", "s0:c1.c2.c3"),
        options("", "", "", "s0-s1-s2"),
        options("", "", "", "high"),
    ] {
        for node in [&node(), &Node::default()] {
            selinux(Some(&asked), node).unwrap_err();
        }
    }
}
