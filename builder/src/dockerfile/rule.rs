//! The lint rules: their names, what they are about, where to read more. Names, descriptions and addresses are those of
//! `BuildKit`, so that what people know and have configured holds here too.

use serde::Serialize;

/// A lint rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Rule {
    /// A stage has a name with capitals.
    StageNameCasing,
    /// `FROM x as y`, `from x AS y`.
    FromAsCasing,
    /// An empty line after a line that is continued.
    NoEmptyContinuation,
    /// Some keywords in upper case, some in lower.
    ConsistentInstructionCasing,
    /// Two stages have one name.
    DuplicateStageName,
    /// A stage is called `scratch` or `context`.
    ReservedStageName,
    /// `CMD` or `ENTRYPOINT` for the shell.
    #[serde(rename = "JSONArgsRecommended")]
    JsonArgsRecommended,
    /// `MAINTAINER`.
    MaintainerDeprecated,
    /// `FROM` uses a variable that nobody declared.
    UndefinedArgInFrom,
    /// The first `WORKDIR` of a stage is relative.
    WorkdirRelativePath,
    /// A variable that nobody declared.
    UndefinedVar,
    /// Two `CMD`, `ENTRYPOINT` or `HEALTHCHECK` of which one counts.
    MultipleInstructionsDisallowed,
    /// `ENV key value`.
    LegacyKeyValueFormat,
    /// The base image is for another platform.
    InvalidBaseImagePlatform,
    /// `FROM --platform=$TARGETPLATFORM`.
    RedundantTargetPlatform,
    /// A variable whose name sounds secret.
    SecretsUsedInArgOrEnv,
    /// Without build arguments the base image has no valid name.
    InvalidDefaultArgInFrom,
    /// `FROM --platform=linux/amd64`.
    FromPlatformFlagConstDisallowed,
    /// A source that `.dockerignore` excludes.
    CopyIgnoredFile,
    /// A comment above that describes something else. Experimental.
    InvalidDefinitionDescription,
    /// `EXPOSE 80/TCP`.
    ExposeProtoCasing,
    /// `EXPOSE 127.0.0.1:80:80`.
    ExposeInvalidFormat,
}

/// Name, description, and the last part of the address.
type Row = (Rule, &'static str, &'static str, Option<&'static str>);

/// All rules.
const TABLE: &[Row] = &[
    (
        Rule::StageNameCasing,
        "StageNameCasing",
        "Stage names should be lowercase",
        Some("https://docs.docker.com/go/dockerfile/rule/stage-name-casing/"),
    ),
    (
        Rule::FromAsCasing,
        "FromAsCasing",
        "The 'as' keyword should match the case of the 'from' keyword",
        Some("https://docs.docker.com/go/dockerfile/rule/from-as-casing/"),
    ),
    (
        Rule::NoEmptyContinuation,
        "NoEmptyContinuation",
        "Empty continuation lines will become errors in a future release",
        Some("https://docs.docker.com/go/dockerfile/rule/no-empty-continuation/"),
    ),
    (
        Rule::ConsistentInstructionCasing,
        "ConsistentInstructionCasing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
        Some("https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/"),
    ),
    (
        Rule::DuplicateStageName,
        "DuplicateStageName",
        "Stage names should be unique",
        Some("https://docs.docker.com/go/dockerfile/rule/duplicate-stage-name/"),
    ),
    (
        Rule::ReservedStageName,
        "ReservedStageName",
        "Reserved words should not be used as stage names",
        Some("https://docs.docker.com/go/dockerfile/rule/reserved-stage-name/"),
    ),
    (
        Rule::JsonArgsRecommended,
        "JSONArgsRecommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        Some("https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"),
    ),
    (
        Rule::MaintainerDeprecated,
        "MaintainerDeprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        Some("https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/"),
    ),
    (
        Rule::UndefinedArgInFrom,
        "UndefinedArgInFrom",
        "FROM command must use declared ARGs",
        Some("https://docs.docker.com/go/dockerfile/rule/undefined-arg-in-from/"),
    ),
    (
        Rule::WorkdirRelativePath,
        "WorkdirRelativePath",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
        Some("https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/"),
    ),
    (
        Rule::UndefinedVar,
        "UndefinedVar",
        "Variables should be defined before their use",
        Some("https://docs.docker.com/go/dockerfile/rule/undefined-var/"),
    ),
    (
        Rule::MultipleInstructionsDisallowed,
        "MultipleInstructionsDisallowed",
        "Multiple instructions of the same type should not be used in the same stage",
        Some("https://docs.docker.com/go/dockerfile/rule/multiple-instructions-disallowed/"),
    ),
    (
        Rule::LegacyKeyValueFormat,
        "LegacyKeyValueFormat",
        "Legacy key/value format with whitespace separator should not be used",
        Some("https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/"),
    ),
    (
        Rule::InvalidBaseImagePlatform,
        "InvalidBaseImagePlatform",
        "Base image platform does not match expected target platform",
        None,
    ),
    (
        Rule::RedundantTargetPlatform,
        "RedundantTargetPlatform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        Some("https://docs.docker.com/go/dockerfile/rule/redundant-target-platform/"),
    ),
    (
        Rule::SecretsUsedInArgOrEnv,
        "SecretsUsedInArgOrEnv",
        "Sensitive data should not be used in the ARG or ENV commands",
        Some("https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/"),
    ),
    (
        Rule::InvalidDefaultArgInFrom,
        "InvalidDefaultArgInFrom",
        "Default value for global ARG results in an empty or invalid base image name",
        Some("https://docs.docker.com/go/dockerfile/rule/invalid-default-arg-in-from/"),
    ),
    (
        Rule::FromPlatformFlagConstDisallowed,
        "FromPlatformFlagConstDisallowed",
        "FROM --platform flag should not use a constant value",
        Some("https://docs.docker.com/go/dockerfile/rule/from-platform-flag-const-disallowed/"),
    ),
    (
        Rule::CopyIgnoredFile,
        "CopyIgnoredFile",
        "Attempting to Copy file that is excluded by .dockerignore",
        Some("https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/"),
    ),
    (
        Rule::InvalidDefinitionDescription,
        "InvalidDefinitionDescription",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
        Some("https://docs.docker.com/go/dockerfile/rule/invalid-definition-description/"),
    ),
    (
        Rule::ExposeProtoCasing,
        "ExposeProtoCasing",
        "Protocol in EXPOSE instruction should be lowercase",
        Some("https://docs.docker.com/go/dockerfile/rule/expose-proto-casing/"),
    ),
    (
        Rule::ExposeInvalidFormat,
        "ExposeInvalidFormat",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
        Some("https://docs.docker.com/go/dockerfile/rule/expose-invalid-format/"),
    ),
];

impl Rule {
    /// All rules.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    /// The rule of a name.
    pub fn named(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    fn row(self) -> &'static Row {
        // Rows are in the order of the variants; a test holds that.
        &TABLE[self as usize]
    }

    /// Its name, as `# check=skip=` has it.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// What it is about.
    pub fn description(self) -> &'static str {
        self.row().2
    }

    /// Where to read more.
    pub fn url(self) -> Option<&'static str> {
        self.row().3
    }

    /// Whether it is silent unless asked for by `experimental=`.
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }
}
