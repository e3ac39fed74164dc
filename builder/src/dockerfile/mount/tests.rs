use super::*;

fn resolve(text: &str) -> Result<Mount, String> {
    let spec = MountSpec::read(text).map_err(|fault| fault.message)?;
    let mut expand = |word: &str| Ok(word.replace("$type", "cache").replace("$dir", "/a,b"));
    spec.resolve(&mut expand).map_err(|error| error.to_string())
}

#[test]
fn kinds() {
    let cache = |target: &str, id: Option<&str>, sharing| Mount::Cache {
        from: None,
        source: String::new(),
        target: target.into(),
        id: id.map(str::to_owned),
        sharing,
        read_only: false,
        mode: None,
        uid: None,
        gid: None,
    };
    let secret = |id: &str, target: Option<&str>, env: Option<&str>| Mount::Secret {
        id: id.into(),
        target: target.map(str::to_owned),
        env: env.map(str::to_owned),
        required: false,
        mode: 0o400,
        uid: 0,
        gid: 0,
    };
    let bind = |from: Option<&str>, source: &str, target: &str, read_only| Mount::Bind {
        from: from.map(str::to_owned),
        source: source.into(),
        target: target.into(),
        read_only,
    };
    let tmpfs = |target: &str, size| Mount::Tmpfs {
        target: target.into(),
        size,
        read_only: false,
    };
    for (text, mount) in [
        ("target=/a", bind(None, "", "/a", true)),
        (
            "type=bind,from=b,src=c,dst=/a,rw",
            bind(Some("b"), "c", "/a", false),
        ),
        (
            "TYPE=bind,destination=/a,readwrite=false",
            bind(None, "", "/a", true),
        ),
        ("target=/a,ro=0", bind(None, "", "/a", false)),
        ("type=cache,target=/a", cache("/a", None, Sharing::Shared)),
        (
            "type=$type,target=$dir,sharing=LOCKED,id=x",
            cache("/a,b", Some("x"), Sharing::Locked),
        ),
        (
            "type=cache,\"target=/a,b\"",
            cache("/a,b", None, Sharing::Shared),
        ),
        ("type=tmpfs,target=/t,size=64m", tmpfs("/t", 64 << 20)),
        ("type=tmpfs,target=/t", tmpfs("/t", 0)),
        (
            "type=secret,id=k",
            secret("k", Some("/run/secrets/k"), None),
        ),
        ("type=secret,id=a/k,env=K", secret("a/k", None, Some("K"))),
        (
            "type=secret,src=k,target=/x,env=K",
            secret("k", Some("/x"), Some("K")),
        ),
        ("type=secret,target=/x/k", secret("k", Some("/x/k"), None)),
    ] {
        assert_eq!(resolve(text), Ok(mount), "{text}");
    }
    assert_eq!(
        resolve("type=ssh,required,mode=0640,uid=1,gid=2,target=/s"),
        Ok(Mount::Ssh {
            id: "default".into(),
            target: Some("/s".into()),
            required: true,
            mode: 0o640,
            uid: 1,
            gid: 2
        })
    );
}

#[test]
fn what_is_refused() {
    for (text, message) in [
        ("", "failed to parse csv mounts: it is empty"),
        (
            "a\"b",
            "failed to parse csv mounts: bare \" in non-quoted field a\"b",
        ),
        (
            "\"a",
            "failed to parse csv mounts: extraneous or missing \" in quoted field",
        ),
        ("z", "invalid field 'z' must be a key=value pair"),
        (
            "from=$x",
            "'from' doesn't support variable expansion, define alias stage instead",
        ),
        ("type=bnid", "unsupported mount type \"bnid\""),
        ("targt=/a", "unexpected key 'targt' in 'targt=/a'"),
        (
            "target=/a,mode=7",
            "mode not allowed for \"bind\" type mounts",
        ),
        (
            "type=tmpfs,uid=7",
            "uid not allowed for \"tmpfs\" type mounts",
        ),
        (
            "required,type=secret",
            "unexpected key 'required' for mount type 'bind'",
        ),
        ("size=1", "unexpected key 'size' for mount type 'bind'"),
        ("type=tmpfs,size=1q", "invalid value for size: 1q"),
        ("ro=2", "invalid value for ro: 2"),
        ("sharing=locked", "invalid cache sharing set for bind mount"),
        (
            "type=cache,sharing=lock",
            "unsupported sharing value \"lock\"",
        ),
        ("type=cache,mode=8", "invalid value 8 for mode"),
        ("type=cache,uid=+1", "invalid value +1 for uid"),
        (
            "type=secret",
            "invalid secret mount. one of source, target required",
        ),
        ("type=secret,id=a,src=b", "both source and id can't be set"),
        (
            "type=secret,id=a,from=b",
            "secret mount should not have a from",
        ),
        (
            "type=secret,id=a,sharing=shared",
            "secret mount should not define sharing",
        ),
        ("type=ssh,src=a", "ssh does not support source"),
    ] {
        assert_eq!(resolve(text), Err(message.into()), "{text}");
    }
    let hint = |text: &str| {
        MountSpec::read(text)
            .unwrap()
            .resolve(&mut |word| Ok(word.into()))
            .unwrap_err()
            .hint
    };
    assert_eq!(hint("type=bnid").as_deref(), Some("did you mean bind?"));
    assert_eq!(hint("targt=/a").as_deref(), Some("did you mean target?"));
    assert_eq!(
        hint("required,type=ssh").as_deref(),
        Some("the type comes first: type=secret,required")
    );
}

#[test]
fn the_stage_is_known_before_variables_are() {
    let from = |text: &str| MountSpec::read(text).unwrap().from().map(str::to_owned);
    assert_eq!(from("type=$x,from=a,target=$y").as_deref(), Some("a"));
    assert_eq!(from("from=a,from=b").as_deref(), Some("b"));
    assert_eq!(from("from="), None);
    assert_eq!(from("target=/from"), None);
}
