//! `images`, `inspect`, `history`, `tag`, `untag`, `df`: what is shown, and in which form.

use crate::harness::store::{Image, archive, json_lines, noise};
use crate::harness::{Env, Shelf, Test, test};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(the_table),
        test!(formats),
        test!(filters),
        test!(every_way_to_name_an_image),
        test!(inspect_has_dockers_shape),
        test!(history_of_an_image),
        test!(tags_come_and_go),
        test!(df_says_what_du_says),
        test!(df_of_shared_layers),
        test!(usage_errors_are_short),
    ]
}

fn the_table(env: &Env) {
    let shelf = Shelf::new(env);
    assert_eq!(
        shelf.ok(&["images"]),
        "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE\n"
    );
    let image = shelf.publish("app:1", &Image::with_file("a", &noise(1_000_000, 1)));
    shelf.ok(&["pull", "-q", &shelf.name("app:1")]);
    let table = shelf.ok(&["images"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split("   ").collect();
    let row: Vec<&str> = row.iter().map(|cell| cell.trim()).collect();
    assert_eq!(
        row[..3],
        [shelf.name("app").as_str(), "1", &image.id[7..19]]
    );
    assert!(row[3].ends_with(" ago"), "{table}");
    assert_eq!(row[4], "1MB");
    let whole = shelf.ok(&["images", "--no-trunc", "--digests"]);
    assert!(
        whole.contains(&image.id) && whole.contains(&image.manifest),
        "{whole}"
    );
    assert_eq!(
        shelf.ok(&["images", "-q"]),
        format!("{}\n", &image.id[7..19])
    );
}

fn formats(env: &Env) {
    let shelf = Shelf::new(env);
    let image = shelf.publish("app:1", &Image::with_file("a", &noise(50_000, 1)));
    shelf.ok(&["pull", "-q", &shelf.name("app:1")]);
    let json = json_lines(&shelf.ok(&["images", "--format", "json"]));
    assert_eq!(json.len(), 1);
    assert_eq!(json[0]["Repository"], shelf.name("app").as_str());
    assert_eq!(json[0]["Digest"], image.manifest.as_str());
    assert_eq!(json[0]["CreatedAt"], "2026-01-02T03:04:06Z");
    assert_eq!(
        json[0]["Bytes"], 51_712,
        "an archive of a file of 50,000 bytes"
    );
    assert!(json[0]["CompressedBytes"].as_u64().unwrap() > 51_712);
    let lines = shelf.ok(&["images", "--format", "{Tag}\\t{{{Size}}}"]);
    assert_eq!(lines, "1\t{51.7kB}\n");
    for (format, error) in [
        ("{Nope}", "unknown field {Nope}: there is Bytes, "),
        ("{{.Tag}}", "Go templates are not understood"),
        ("{Tag", "no } after"),
        ("Tag", "no field in it"),
    ] {
        shelf
            .call(&["images", "--format", format])
            .exits(1)
            .says(error);
    }
    // The same in all verbs.
    for verb in [
        &["inspect", "--format", "{Nope}", &image.id][..],
        &["history", "--format", "{Nope}", &image.id],
        &["df", "--format", "{Nope}"],
        &["df", "-v", "--format", "{Nope}"],
    ] {
        shelf
            .call(verb)
            .exits(1)
            .says("unknown field {Nope}: there is ");
    }
}

fn filters(env: &Env) {
    let shelf = Shelf::new(env);
    for (name, text) in [("a/app:1", "1"), ("a/app:2", "2"), ("tool:1", "3")] {
        shelf.publish(name, &Image::with_file("a", text.as_bytes()));
        shelf.ok(&["pull", "-q", &shelf.name(name)]);
    }
    let host = shelf.registry.host();
    let count = |args: &[&str]| {
        let args: Vec<&str> = ["images", "-q"].iter().chain(args).copied().collect();
        shelf.lines(&args).len()
    };
    assert_eq!(count(&[]), 3);
    assert_eq!(count(&[&format!("{host}/a/app")]), 2);
    assert_eq!(count(&[&format!("{host}/a/app:1")]), 1);
    assert_eq!(count(&["nothing"]), 0);
    assert_eq!(count(&["-f", "reference=*/*/app"]), 2);
    assert_eq!(count(&["--filter", "reference=*/*:1"]), 1);
    assert_eq!(count(&["-f", "label=made"]), 3);
    assert_eq!(count(&["-f", "label=made=there"]), 0);
    assert_eq!(count(&["-f", "dangling=true"]), 0);
    assert_eq!(
        count(&["-f", "dangling=false", "-f", "reference=*/tool"]),
        1
    );
    assert_eq!(count(&["-f", &format!("before={host}/tool:1")]), 0);
    shelf
        .call(&["images", "-f", "size=1"])
        .exits(1)
        .says("invalid value \"size=1\" for --filter");
}

fn every_way_to_name_an_image(env: &Env) {
    let shelf = Shelf::new(env);
    let image = shelf.publish("app:1", &Image::with_file("a", b"b"));
    let name = shelf.name("app");
    shelf.ok(&["pull", "-q", &shelf.name("app:1")]);
    let digest = format!("{name}@{}", image.manifest);
    let spelt: [&str; 7] = [
        &shelf.name("app:1"),
        &image.id,
        &image.id[7..],
        &image.id[7..13],
        &image.id[..13],
        &image.manifest,
        &digest,
    ];
    for name in spelt {
        let id = shelf.ok(&["inspect", "--format", "{Id}", name]);
        assert_eq!(id.trim(), image.id, "{name}");
    }
    for name in ["app:1", &"0".repeat(64), "zzzz"] {
        shelf
            .call(&["inspect", name])
            .exits(1)
            .says(&format!("no such image: {name}"));
    }
    shelf
        .call(&["inspect", "A B"])
        .exits(1)
        .says("invalid image reference");
}

fn inspect_has_dockers_shape(env: &Env) {
    let shelf = Shelf::new(env);
    let mut image = Image::with_file("a", b"b");
    image.config["StopSignal"] = "SIGQUIT".into();
    image.config["Unheard"] = "of".into();
    let published = shelf.publish("app:1", &image);
    let name = shelf.name("app:1");
    shelf.ok(&["pull", "-q", &name]);
    shelf.ok(&["tag", &name, "short"]);
    let found = shelf.call(&["inspect", &name]).ok().json();
    let found = &found[0];
    let keys: Vec<&String> = found.as_object().unwrap().keys().collect();
    for key in [
        "Id",
        "RepoTags",
        "RepoDigests",
        "Created",
        "Config",
        "Architecture",
        "Os",
        "Size",
        "GraphDriver",
        "RootFS",
        "Metadata",
    ] {
        assert!(keys.iter().any(|have| *have == key), "{key}: {keys:?}");
    }
    assert_eq!(found["RepoTags"], serde_json::json!([name, "short:latest"]));
    let digests = [
        format!("{}@{}", shelf.name("app"), published.manifest),
        format!("short@{}", published.manifest),
    ];
    assert_eq!(found["RepoDigests"], serde_json::json!(digests));
    assert_eq!(found["Config"], image.config, "with what is not known here");
    assert_eq!(
        found["RootFS"]["Layers"][0],
        published.layers[0].to_string()
    );
    assert_eq!(found["Author"], "a tester");
    let time = found["Metadata"]["LastTagTime"].as_str().unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    let field = |format| shelf.ok(&["inspect", "--format", format, &name]);
    assert_eq!(
        field("{Config.Cmd} {RepoTags.0}"),
        format!("[\"/bin/sh\"] {name}\n")
    );
    assert_eq!(field("json").lines().count(), 1);
    let two = shelf
        .call(&["inspect", &name, "none", &published.id])
        .exits(1);
    assert_eq!(two.json().as_array().unwrap().len(), 2);
    two.says("no such image: none");
    shelf
        .call(&["inspect", "--type", "volume", &name])
        .exits(1)
        .says("use one of container, image");
}

fn history_of_an_image(env: &Env) {
    let shelf = Shelf::new(env);
    let layers = [
        archive(&[("a", &noise(10_000, 1))]),
        archive(&[("b", b"c")]),
    ];
    let image = shelf.publish("app:1", &Image::new(&layers));
    shelf.ok(&["pull", "-q", &shelf.name("app:1")]);
    let lines = shelf.lines(&["history", "--format", "{ID} {CreatedBy} {Bytes}", &image.id]);
    assert_eq!(
        lines,
        [
            format!("{} CMD sh 0", &image.id[7..19]),
            "<missing> COPY layer1 / 2048".to_owned(),
            "<missing> COPY layer0 / 11776".to_owned(),
        ]
    );
    let table = shelf.ok(&["history", &image.id]);
    assert!(table.starts_with("IMAGE "), "{table}");
    assert_eq!(
        shelf.lines(&["history", "-q", "--no-trunc", &image.id])[0],
        image.id
    );
}

fn tags_come_and_go(env: &Env) {
    let shelf = Shelf::new(env);
    let one = shelf.publish("app:1", &Image::with_file("a", b"1"));
    let two = shelf.publish("app:2", &Image::with_file("a", b"2"));
    for tag in ["app:1", "app:2"] {
        shelf.ok(&["pull", "-q", &shelf.name(tag)]);
    }
    let id = |name: &str| {
        shelf
            .ok(&["inspect", "--format", "{Id}", name])
            .trim()
            .to_owned()
    };
    shelf.ok(&["tag", &shelf.name("app:1"), "mine"]);
    assert_eq!(id("mine:latest"), one.id);
    shelf.ok(&["tag", &two.id[7..19], "docker.io/library/mine"]);
    assert_eq!(id("mine"), two.id);
    // The old one has its own name still, and one by its digest.
    let names = shelf.lines(&["inspect", "--format", "{RepoTags}", &one.id]);
    assert_eq!(names, [format!("[\"{}\"]", shelf.name("app:1"))]);
    let removed = shelf.ok(&["untag", "mine", &shelf.name("app:2")]);
    assert_eq!(
        removed,
        format!("Untagged: mine:latest\nUntagged: {}\n", shelf.name("app:2"))
    );
    assert_eq!(id(&two.id), two.id, "it stays until it is pruned");
    shelf
        .call(&["untag", "mine"])
        .exits(1)
        .says("no such image: mine");
    let by_digest = format!("mine@{}", two.manifest);
    shelf
        .call(&["untag", &by_digest])
        .exits(1)
        .says("has no tag to be removed")
        .says("hint: `rcrun rmi");
    shelf
        .call(&["tag", "nothing", "x"])
        .exits(1)
        .says("no such image: nothing");
    shelf
        .call(&["tag", &one.id, "X"])
        .exits(1)
        .says("lower case");
    shelf
        .call(&["tag", &one.id, &by_digest])
        .exits(1)
        .says("with a digest");
}

fn du(path: &std::path::Path) -> u64 {
    let output = std::process::Command::new("du")
        .args(["-s", "-B1"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn df_says_what_du_says(env: &Env) {
    let shelf = Shelf::new(env);
    for n in 0..3 {
        let image = Image::with_file("a", &noise(300_000, n));
        shelf.publish(&format!("app:{n}"), &image);
        shelf.ok(&["pull", "-q", &shelf.name(&format!("app:{n}"))]);
    }
    let bytes = || -> u64 {
        let rows = json_lines(&shelf.ok(&["df", "--format", "json"]));
        rows.iter().map(|row| row["Bytes"].as_u64().unwrap()).sum()
    };
    assert_eq!(bytes(), du(&shelf.path()));
    let row = |kind: &str| {
        let rows = json_lines(&shelf.ok(&["df", "--format", "json"]));
        rows.into_iter().find(|row| row["Type"] == kind).unwrap()
    };
    assert_eq!(row("Images")["TotalCount"], 3);
    assert_eq!(row("Images")["ReclaimableBytes"], row("Images")["Bytes"]);
    // What it promises is what is had.
    let promised = row("Images")["ReclaimableBytes"].as_u64().unwrap();
    let before = du(&shelf.path());
    shelf.ok(&["prune", "-a", "-f"]);
    let freed = before - du(&shelf.path());
    let names = 3 * 4096;
    assert!(
        (promised..=promised + names).contains(&freed),
        "{freed}, not {promised}"
    );
    assert_eq!(bytes(), du(&shelf.path()));
}

fn df_of_shared_layers(env: &Env) {
    let shelf = Shelf::new(env);
    let shared = archive(&[("big", &noise(400_000, 9))]);
    for n in ["1", "2"] {
        let own = archive(&[("own", n.as_bytes())]);
        let name = format!("app:{n}");
        shelf.publish(&name, &Image::new(&[shared.clone(), own]));
        shelf.ok(&["pull", "-q", &shelf.name(&name)]);
    }
    for row in json_lines(&shelf.ok(&["df", "-v", "--format", "json"])) {
        let number = |name: &str| row[name].as_u64().unwrap();
        assert!(number("SharedBytes") > 800_000, "blob and files: {row}");
        assert!(number("UniqueBytes") < 100_000, "{row}");
        assert_eq!(
            number("Bytes"),
            number("SharedBytes") + number("UniqueBytes")
        );
    }
}

fn usage_errors_are_short(env: &Env) {
    let shelf = Shelf::new(env);
    for (words, error) in [
        (&["pull"][..], "rcrun pull: it takes at least 1 argument\n"),
        (
            &["images", "a", "b"],
            "rcrun images: it takes at most 1 argument\n",
        ),
        (&["tag", "a"], "rcrun tag: it takes exactly 2 arguments\n"),
        (&["df", "x"], "rcrun df: it takes no arguments\n"),
        (
            &["pull", "--nope", "x"],
            "rcrun pull: unknown flag: --nope\n",
        ),
        (&["rmi", "-x", "y"], "rcrun rmi: unknown flag: -x\n"),
        (
            &["images", "--format"],
            "rcrun images: flag needs an argument: --format\n",
        ),
    ] {
        let output = shelf.call(words).exits(1);
        let verb = words[0];
        assert_eq!(output.stdout, "");
        assert_eq!(
            output.stderr,
            format!("{error}See 'rcrun {verb} --help'.\n")
        );
    }
    let help = shelf.ok(&["pull", "--help"]);
    assert!(help.contains("--platform PLATFORM"), "{help}");
}
