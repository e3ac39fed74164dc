//! Each lint rule with texts of our own.

use rcrun_image::platform::Platform;

use crate::dockerfile::{
    BaseFacts, CheckOptions, Ignored, Report, Request, Rule, Selection, check_text,
};

struct Secret;

impl Ignored for Secret {
    fn excludes(&self, path: &str) -> bool {
        path == "secret" || path.starts_with("secret/")
    }

    fn excludes_all(&self) -> bool {
        false
    }
}

fn facts(name: &str, platform: &Platform) -> Option<BaseFacts> {
    let strings = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    Some(BaseFacts {
        platform: if name == "foreign" {
            Platform::new("linux", "s390x", "")
        } else {
            platform.clone()
        },
        env: strings(&["PATH=/bin", "JAVA_HOME=/java"]),
        shell: if name == "with-shell" {
            strings(&["/bin/bash", "-c"])
        } else {
            Vec::new()
        },
        onbuild: if name == "with-triggers" {
            strings(&["WORKDIR rel", "COPY $nope /"])
        } else {
            Vec::new()
        },
    })
    .filter(|_| name != "unknown")
}

fn check(text: &str, selection: Option<&str>) -> Report {
    let options = CheckOptions {
        request: Request::default(),
        selection: selection.map(|text| Selection::parse(text).unwrap()),
        all_stages: true,
        ignored: Some(&Secret),
        base: &facts,
    };
    check_text(text.as_bytes(), &options)
}

#[track_caller]
fn finds(text: &str, wanted: &[(u32, &str)]) {
    let report = check(text, Some("experimental=all"));
    assert!(report.errors.is_empty(), "{text}: {:?}", report.errors);
    let mut found: Vec<_> = report
        .warnings
        .iter()
        .map(|one| (one.span.first_line, one.rule.name()))
        .collect();
    found.sort_unstable();
    assert_eq!(found, wanted, "{text}");
}

#[test]
fn casing() {
    finds(
        "FROM a AS b\nRun x\nrun y\nRUN z\n",
        &[
            (2, "ConsistentInstructionCasing"),
            (3, "ConsistentInstructionCasing"),
        ],
    );
    finds(
        "from a\nrun x\nRUN y\n",
        &[(3, "ConsistentInstructionCasing")],
    );
    finds(
        "FROM a as Ab\n",
        &[(1, "FromAsCasing"), (1, "StageNameCasing")],
    );
    finds("from a AS b\n", &[(1, "FromAsCasing")]);
    finds(
        "EXPOSE=1\n"
            .replace("EXPOSE=1", "FROM a\nEXPOSE 80/TCP 81")
            .as_str(),
        &[(2, "ExposeProtoCasing")],
    );
}

#[test]
fn stages() {
    finds(
        "FROM a AS b\nFROM a AS b\nFROM a AS scratch\n",
        &[(2, "DuplicateStageName"), (3, "ReservedStageName")],
    );
    finds("FROM foreign\n", &[(1, "InvalidBaseImagePlatform")]);
    finds(
        "FROM --platform=$TARGETPLATFORM a\n",
        &[(1, "RedundantTargetPlatform")],
    );
    finds(
        "FROM --platform=linux/arm64 a\n",
        &[(1, "FromPlatformFlagConstDisallowed")],
    );
    finds("FROM --platform=linux/arm64 a AS on-arm64\n", &[]);
    finds("ARG v\nFROM a:${v:-1}\nFROM a$v\n", &[]);
    finds("ARG V=1\nFROM a:$W$V\n", &[(2, "UndefinedArgInFrom")]);
}

#[test]
fn instructions() {
    finds("FROM a\nMAINTAINER x\n", &[(2, "MaintainerDeprecated")]);
    finds(
        "FROM a\nCMD x\nSHELL [\"y\"]\nENTRYPOINT z\n",
        &[(2, "JSONArgsRecommended")],
    );
    finds("FROM with-shell\nCMD x\n", &[]);
    finds("FROM a AS b\nSHELL [\"y\"]\nFROM b\nCMD x\n", &[]);
    finds(
        "FROM a\nCMD [\"x\"]\nCMD [\"y\"]\n",
        &[(2, "MultipleInstructionsDisallowed")],
    );
    finds("FROM a AS b\nCMD [\"x\"]\nFROM b\nCMD [\"y\"]\n", &[]);
    finds(
        "FROM a\nENV x y\nLABEL z w\n",
        &[(2, "LegacyKeyValueFormat"), (3, "LegacyKeyValueFormat")],
    );
    finds(
        "FROM a\nWORKDIR x\nWORKDIR y\n",
        &[(2, "WorkdirRelativePath")],
    );
    finds("FROM a\nWORKDIR /x\nWORKDIR y\n", &[]);
    finds("FROM a AS b\nWORKDIR /x\nFROM b\nWORKDIR y\n", &[]);
    finds("FROM a\nEXPOSE 1:80\n", &[(2, "ExposeInvalidFormat")]);
    finds("FROM a\nRUN x \\\n\n y\n", &[(4, "NoEmptyContinuation")]);
}

#[test]
fn secrets() {
    let all = "FROM a\nARG GIT_TOKEN\nENV Api_Key=x\nARG PUBLIC_KEY\nENV KEY_FILE=x\nENV MONKEY=x\nARG tokens\nENV AUTH=1\n";
    let rule = "SecretsUsedInArgOrEnv";
    finds(all, &[(2, rule), (3, rule), (8, rule)]);
}

#[test]
fn variables() {
    finds(
        "FROM a\nCOPY $JAVA_HOME $JAVA_HOM /\n",
        &[(2, "UndefinedVar")],
    );
    finds("FROM a\nARG x\nCOPY $x /\nRUN echo $y\n", &[]);
    // What an unknown image sets is unknown.
    finds("FROM unknown\nCOPY $x /\n", &[]);
    finds("FROM unknown AS b\nFROM b\nCOPY $x /\n", &[]);
    finds("FROM scratch\nCOPY $JAVA_HOME /\n", &[(2, "UndefinedVar")]);
}

#[test]
fn excluded_files() {
    let rule = "CopyIgnoredFile";
    finds(
        "FROM a AS b\nCOPY secret /\nADD ./x/../secret/y /\nADD https://secret /\n",
        &[(2, rule), (3, rule)],
    );
    finds(
        "FROM a AS b\nFROM c\nCOPY --from=b secret /\nCOPY . /\n",
        &[],
    );
}

#[test]
fn comments() {
    let rule = "InvalidDefinitionDescription";
    finds(
        "# c\nARG a\n# b is it\nFROM x AS b\n# wrong\nARG c\n#\nARG d\n# d is\nARG c d\n",
        &[(2, rule), (6, rule)],
    );
    // A single comment silences one instruction.
    finds(
        "FROM a\n# check=skip=MaintainerDeprecated,InvalidDefinitionDescription\nMAINTAINER x\nMAINTAINER y\n",
        &[(4, "MaintainerDeprecated")],
    );
}

#[test]
fn triggers() {
    finds(
        "FROM with-triggers\n",
        &[(1, "UndefinedVar"), (1, "WorkdirRelativePath")],
    );
    finds(
        "FROM a AS b\nONBUILD CMD x\nFROM b\n",
        &[(3, "JSONArgsRecommended")],
    );
}

#[test]
fn warnings_may_refuse() {
    let text = "# check=error=true;skip=JSONArgsRecommended\nFROM a as b\nCMD x\n";
    let report = check(text, None);
    assert_eq!(
        report.refusal().as_deref(),
        Some("lint violation found for rules: FromAsCasing")
    );
    assert_eq!(check(text, Some("")).refusal(), None);
    assert_eq!(check(text, Some("")).warnings.len(), 2);
    let report = check("# check=nonsense\nFROM a\n", None);
    assert_eq!(
        report.errors[0].message,
        "failed to parse check options: invalid check option \"nonsense\""
    );
    assert_eq!(report.errors[0].span.first_line, 1);
}

#[test]
fn warnings_come_before_errors() {
    let report = check("FROM a as b\nRNU x\nMAINTAINER y\nFROM c as d\n", None);
    let found: Vec<_> = report.warnings.iter().map(|one| one.rule).collect();
    assert_eq!(found, [Rule::FromAsCasing]);
    assert_eq!(report.errors[0].message, "unknown instruction: RNU");
    let report = check("FROM a\nWORKDIR b\nEXPOSE x\nWORKDIR c\n", None);
    assert_eq!(report.warnings.len(), 1);
    assert_eq!(report.errors[0].message, "invalid containerPort: x");
}
