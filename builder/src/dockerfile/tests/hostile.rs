//! What nobody writes by accident: nothing panics, nothing takes long, nothing takes memory out of proportion.

use std::time::{Duration, Instant};

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

/// Pieces that mean something, to be put together at random.
const PIECES: &[&str] = &[
    "FROM a AS b\n",
    "FROM --platform=$X b\n",
    "FROM scratch\n",
    "ARG X=1\n",
    "ENV a=\"$X\" b='c'\n",
    "ENV a b\n",
    "RUN --mount=type=cache,target=/x,id=$a y\n",
    "RUN <<EOF cat <<-'X'\n\ta\nEOF\nX\n",
    "COPY <<f /x\n$a\nf\n",
    "COPY --from=b --chown=$a x y\n",
    "COPY [\"a\", \"b\"]\n",
    "CMD [\"a\"\n",
    "EXPOSE $a 80-90/udp\n",
    "# check=skip=all\n",
    "# escape=`\n",
    "HEALTHCHECK --interval=1s CMD x\n",
    "ONBUILD RUN <<E\nE\n",
    "\\\n",
    " \\\n\n",
    "\u{feff}",
    "${a:-${b%%*c}}",
    "${a//x/y}",
    "'",
    "\"",
    "\\",
    "`",
    "$",
    "{",
    "}",
    "<<",
    "-",
    "=",
    ",",
    " ",
    "\t",
    "\r\n",
    "\n",
    "ä",
    "\u{0}",
    "#",
    "[",
    "]",
    "WORKDIR ",
    "LABEL ",
    "--",
    "--x=",
    "STOPSIGNAL 9\n",
    "VOLUME [\"/x\"]\n",
    "SHELL [\"x\"]\n",
    "USER a\n",
    "MAINTAINER b\n",
];

/// A generator whose numbers are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).unwrap()
    }
}

#[test]
fn random_texts_do_not_panic() {
    let mut random = Random(0x5eed_0fd0_c4e5);
    let lint = include_str!("../../../fixtures/dockerfile/lint.jsonl");
    let corpus: Vec<Vec<u8>> = lint
        .lines()
        .map(|line| {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            case["dockerfile"].as_str().unwrap().as_bytes().to_vec()
        })
        .collect();
    for round in 0..20_000 {
        let mut text = if round % 2 == 0 {
            corpus[random.below(corpus.len())].clone()
        } else {
            Vec::new()
        };
        for _ in 0..=random.below(12) {
            let at = random.below(text.len() + 1);
            match random.below(8) {
                0 if !text.is_empty() => _ = text.remove(at.min(text.len() - 1)),
                1 if !text.is_empty() => {
                    let at = at.min(text.len() - 1);
                    text[at] = u8::try_from(random.below(256)).unwrap();
                }

                2 => text.truncate(at),
                3 => {
                    let tail = text.split_off(at);
                    text.splice(0..0, tail);
                }
                _ => {
                    let piece = PIECES[random.below(PIECES.len())];
                    text.splice(at..at, piece.bytes());
                }
            }
        }
        exercise(&text);
    }
}

#[test]
fn ten_thousand_stages() {
    let text: String = (0..limits::STAGES)
        .map(|i| format!("FROM a AS s{i}\n"))
        .collect();
    let start = Instant::now();
    assert_eq!(parse(text.as_bytes()).unwrap().stages.len(), limits::STAGES);
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
        "x\n".repeat(1_000_000)
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
    in_time(&format!("{}FROM a\n", "# x\n".repeat(1_000_000)));
    in_time(&format!("FROM a\nRUN x \\\n{} y\n", "\n".repeat(1_000_000)));
    in_time(&format!(
        "FROM a\nRUN x \\\n{} y\n",
        "#\n".repeat(1_000_000)
    ));
}

#[test]
fn values_that_double() {
    let text: String = (0..100).map(|_| "ENV a=$a$a\n").collect();
    let report = {
        let base = |_: &str, _: &_| None;
        let options = CheckOptions {
            request: Request::default(),
            selection: None,
            all_stages: true,
            ignored: None,
            base: &base,
        };
        check_text(format!("FROM a\nENV a=x\n{text}").as_bytes(), &options)
    };
    assert!(
        report.errors[0]
            .message
            .contains("its value has more than 1048576 bytes"),
        "{:?}",
        report.errors
    );
}
