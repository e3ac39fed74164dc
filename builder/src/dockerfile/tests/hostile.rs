//! What nobody writes by accident: nothing panics, nothing takes long, nothing takes memory out of proportion.

use std::time::{Duration, Instant};

use super::random::Texts;

use crate::dockerfile::{
    BaseFacts, CheckOptions, Request, check_text, dump, limits, outline, parse, render, targets,
};

/// Far more than any of these takes, far less than what grows with the square of the input would.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that is done with a text before something is built.
fn exercise(text: &[u8]) {
    let platform_facts = |_: &str, platform: &_| {
        let platform = Clone::clone(platform);
        Some(BaseFacts {
            platform,
            env: vec!["A=b".into()],
            shell: Vec::new(),
            onbuild: Vec::new(),
        })
    };
    let request = Request::default();
    _ = dump(text);
    let source = String::from_utf8_lossy(text);
    match parse(text) {
        Ok(file) => {
            _ = targets(&file, text);
            _ = outline(&file, text, &request, &platform_facts);
            assert!(serde_json::to_vec(&file).is_ok());
        }
        Err(errors) => {
            assert!(!errors.is_empty() && errors.len() <= limits::DIAGNOSTICS + limits::HEREDOCS);
            for error in errors.iter().take(3) {
                assert!(render(error, &source, "Dockerfile", 60, false).ends_with('\n'));
            }
        }
    }
    let options = CheckOptions {
        request,
        selection: None,
        all_stages: true,
        ignored: None,
        base: &platform_facts,
    };
    _ = check_text(text, &options);
}

#[track_caller]
fn in_time(text: &str) {
    let start = Instant::now();
    exercise(text.as_bytes());
    eprintln!("{:?} for {} bytes", start.elapsed(), text.len());
    assert!(
        start.elapsed() < PATIENCE,
        "{:?} for {} bytes",
        start.elapsed(),
        text.len()
    );
}

#[test]
fn random_texts_do_not_panic() {
    let mut texts = Texts::new(0x5eed_0fd0_c4e5);
    for _ in 0..20_000 {
        exercise(&texts.next_text());
    }
}

#[test]
fn ten_thousand_stages() {
    let text: String = (0..limits::STAGES)
        .map(|i| format!("FROM a AS s{i}\n"))
        .collect();
    let start = Instant::now();
    assert_eq!(parse(text.as_bytes()).unwrap().stages.len(), limits::STAGES);
    eprintln!("{:?} for {} stages", start.elapsed(), limits::STAGES);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    in_time(&text);
    let errors = parse(format!("{text}FROM a\n").as_bytes()).unwrap_err();
    assert_eq!(errors[0].message, "refuse more than 10000 stages");
}

#[test]
fn chains_of_stages() {
    // Each built on the one before, with a variable more and one hidden.
    let text: String = (1..limits::STAGES)
        .map(|i| {
            format!(
                "FROM s{} AS s{i}\nENV v{i}=1\nARG v{i}=2\nCOPY --from=s{} a b\n",
                i - 1,
                i - 1
            )
        })
        .collect();
    in_time(&format!("FROM a AS s0\n{text}"));
    // Each needs the one that comes after it.
    let text: String = (0..limits::STAGES - 1)
        .map(|i| format!("FROM a AS s{i}\nCOPY --from=s{} a b\n", i + 1))
        .collect();
    in_time(&format!(
        "{text}FROM a AS s{}\nCOPY --from=s0 a b\n",
        limits::STAGES - 1
    ));
}

#[test]
fn many_instructions() {
    in_time(&format!(
        "FROM a\n{}",
        "RUN x\n".repeat(limits::INSTRUCTIONS + 1)
    ));
    in_time(&format!(
        "FROM a\n{}",
        "NONSENSE x\n".repeat(limits::INSTRUCTIONS)
    ));
    let text: String = (0..30_000)
        .map(|i| format!("ENV v{i}=$v{} w=$typo{i}\n", i / 2))
        .collect();
    in_time(&format!("FROM a\n{text}"));
    let text: String = (0..30_000)
        .map(|i| format!("ARG a{i}=$a{}\n", i.max(1) - 1))
        .collect();
    in_time(&format!("{text}FROM a$typo\n"));
}

#[test]
fn long_instructions() {
    let pairs: String = (0..100_000).map(|i| format!("v{i}=$x \\\n")).collect();
    in_time(&format!("FROM a\nENV {pairs} z=1\nCOPY $y $z /\n"));
    in_time(&format!("FROM a\nCOPY {} /\n", "$x \\\n".repeat(100_000)));
    in_time(&format!(
        "FROM a\nEXPOSE {}\n",
        "0-65535 \\\n".repeat(10_000)
    ));
    in_time(&format!(
        "FROM a\nRUN {} x\n",
        "--mount=type=cache,target=/a \\\n".repeat(20_000)
    ));
    in_time(&format!(
        "FROM a\nRUN {} x\n",
        "--network=none \\\n".repeat(20_000)
    ));
    in_time(&format!(
        "FROM a\nCOPY --exclude={} a b\n",
        "x,".repeat(20_000)
    ));
    in_time(&format!(
        "FROM a\nRUN --mount={} b\n",
        "x=y,".repeat(10_000)
    ));
}

#[test]
fn deep_texts() {
    in_time(&format!("FROM a\n{} RUN x\n", "ONBUILD ".repeat(8_000)));
    in_time(&format!("FROM a\nRUN {}\n", "[".repeat(60_000)));
    in_time(&format!("FROM a\nWORKDIR {}\n", "${a:-".repeat(12_000)));
    in_time(&format!("FROM a\nWORKDIR {}\n", "\"'".repeat(30_000)));
    in_time(&format!("FROM a\nRUN {}\n", "<<'".repeat(20_000)));
}

#[test]
fn heredocs_without_end() {
    in_time(&format!(
        "FROM a\nRUN {}\n{}",
        "<<A ".repeat(limits::HEREDOCS),
        "x\n".repeat(300_000)
    ));
    in_time(&format!(
        "FROM a\nRUN {}\n",
        "<<A ".repeat(limits::HEREDOCS + 1)
    ));
    in_time(&format!(
        "FROM a\nCOPY {} /\n{}",
        "<<A ".repeat(900),
        "x\nA\n".repeat(900)
    ));
}

#[test]
fn comments_and_empty_lines() {
    in_time(&format!("{}FROM a\n", "# x\n".repeat(300_000)));
    in_time(&format!("FROM a\nRUN x \\\n{} y\n", "\n".repeat(300_000)));
    in_time(&format!("FROM a\nRUN x \\\n{} y\n", "#\n".repeat(300_000)));
}

#[test]
fn values_that_double() {
    let text: String = (0..100).map(|_| "ENV a=$a$a\n").collect();
    let complaint = complaint(&format!("FROM a\nENV a=x\n{text}"));
    assert!(
        complaint.contains("its value has more than 1048576 bytes"),
        "{complaint}"
    );
}

/// What a check says of a text that needs no image.
fn complaint(text: &str) -> String {
    let base = |_: &str, _: &_| None;
    let request = Request::default();
    let options = CheckOptions {
        request,
        selection: None,
        all_stages: true,
        ignored: None,
        base: &base,
    };
    let report = check_text(text.as_bytes(), &options);
    report
        .errors
        .first()
        .map(|error| error.message.clone())
        .unwrap_or_default()
}

#[test]
fn values_that_are_many() {
    // A megabyte, over and over.
    let large = format!(
        "FROM a\nENV x={}\nENV y=$x$x$x$x$x$x$x$x$x$x$x$x$x$x$x$x\n",
        "x".repeat(60_000)
    );
    let kept = (0..30)
        .map(|i| format!("ENV z{i}=$y\n"))
        .collect::<String>();
    assert!(complaint(&format!("{large}{kept}")).contains("refuse variables of more than"));
    let declared = (0..30)
        .map(|i| format!("ARG z{i}=$y\n"))
        .collect::<String>();
    assert!(complaint(&format!("{large}{declared}")).contains("refuse variables of more than"));
    let copied = format!("COPY {} /x\n", "$y ".repeat(100));
    assert!(
        complaint(&format!("{large}{copied}"))
            .contains("refuse an instruction with values of more than")
    );
    let exposed = format!("EXPOSE {}\n", "$y ".repeat(100));
    assert!(
        complaint(&format!("{large}{exposed}"))
            .contains("refuse an instruction with values of more than")
    );
    let document = format!("COPY <<A /x\n{}A\n", "$y\n".repeat(100));
    assert!(complaint(&format!("{large}{document}")).contains("its value has more than"));
    let stages = (0..200)
        .map(|i| format!("FROM a AS s{i}\n{}", &large[7..]))
        .collect::<String>();
    assert!(
        complaint(&stages).contains("refuse stages whose variables"),
        "{}",
        complaint(&stages)
    );
}

#[test]
fn one_document_under_many_names() {
    let text = format!(
        "FROM a\nCOPY {} /x/\n{}{}A\n",
        "<<A ".repeat(900),
        "A\n".repeat(899),
        "x\n".repeat(1_000_000)
    );
    let errors = parse(text.as_bytes()).unwrap_err();
    assert!(
        errors[0].message.contains("refuse heredocs of more than"),
        "{errors:?}"
    );
}
