//! What a Dockerfile says, typed. Owns the types alone; [`super::parse`] makes them.
//!
//! Words stay as they were written. Each field says whether variables in it are replaced, and by which rule:
//!
//! - *literal*: never;
//! - *word*: [`super::Words::expand`] with the environment of the instruction, the value stays one value;
//! - *words*: [`super::Words::split`], one value may become several or none;
//! - *document*: [`super::Words::document`], the text of a heredoc: variables only, quotes stay, and the escape character
//!   is a backslash whatever the `escape` directive says.
//!
//! The environment is that *before* the instruction: `ENV a=1 b=$a` gives `b` the old `a`
//! ([`super::scope`] holds this rule).

use std::time::Duration;

use serde::Serialize;

use super::mount::MountSpec;
use super::span::Span;

/// A Dockerfile.
#[derive(Debug, Clone, Serialize)]
pub struct Dockerfile {
    /// `# syntax=`, `# escape=`, `# check=`.
    pub directives: Directives,
    /// The `ARG` before the first `FROM`, in order.
    pub global_args: Vec<GlobalArg>,
    /// At least one.
    pub stages: Vec<Stage>,
    /// Instructions with an empty line among those that continue them: their last lines. [`super::check()`] warns of these,
    /// and of all else.
    pub empty_continuations: Vec<Span>,
}

/// Parser directives: the comments of this form on the very first lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Directives {
    /// `# syntax=`: the frontend that the author had in mind. The whole value.
    pub syntax: Option<String>,
    /// The character that escapes, and continues lines: `\` or a backquote.
    pub escape: char,
    /// `# check=`, unparsed ([`super::Selection::parse`]).
    pub check: Option<String>,
    /// Where `check` stands.
    pub check_span: Span,
}

/// `ARG` before the first `FROM`.
#[derive(Debug, Clone, Serialize)]
pub struct GlobalArg {
    /// Where it stands.
    pub span: Span,
    /// The instruction as one line.
    pub text: String,
    /// The comment lines right above, without `#`.
    pub comments: Vec<String>,
    /// The keyword as it was written.
    pub keyword: String,
    /// What it declares.
    pub arg: Arg,
}

/// One `FROM` and what follows it.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// Counted from zero; `COPY --from=0` means this.
    pub index: usize,
    /// `AS name`, in lower case.
    pub name: Option<String>,
    /// What is built upon. *word*, with global arguments only.
    pub base: String,
    /// `--platform=`. *word*, with global arguments only.
    pub platform: Option<String>,
    /// Where the `FROM` stands.
    pub span: Span,
    /// The `FROM` as one line.
    pub text: String,
    /// `FROM` as it was written.
    pub keyword: String,
    /// `AS` as it was written.
    pub as_keyword: Option<String>,
    /// The name as it was written.
    pub written_name: Option<String>,
    /// The comment lines right above, without `#`.
    pub comments: Vec<String>,
    /// What a comment right above says about the stage: `# name description`.
    pub description: Option<String>,
    /// What comes after the `FROM`.
    pub instructions: Vec<Instruction>,
}

/// One instruction other than `FROM`.
#[derive(Debug, Clone, Serialize)]
pub struct Instruction {
    /// Where it stands, heredocs included. Triggers: the place of the `FROM` that brought them.
    pub span: Span,
    /// The instruction as one line, continuation lines joined, without heredocs, no space around. History and progress
    /// show this.
    pub text: String,
    /// The keyword as it was written.
    pub keyword: String,
    /// The comment lines right above, without `#`; they may contain `check=`.
    pub comments: Vec<String>,
    /// What it is.
    pub kind: Kind,
}

/// The instructions.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "instruction", rename_all = "lowercase")]
pub enum Kind {
    /// `ADD`
    Add(Add),
    /// `COPY`
    Copy(Copy),
    /// `RUN`
    Run(Run),
    /// `ENV`: keys and values are *word*.
    Env {
        /// At least one.
        pairs: Vec<Pair>,
    },
    /// `LABEL`
    Label(Label),
    /// `ARG`
    Arg(Arg),
    /// `CMD`: *literal*.
    Cmd {
        /// May be empty.
        command: Command,
    },
    /// `ENTRYPOINT`: *literal*.
    Entrypoint {
        /// An empty vector means: none, not even the base's.
        command: Command,
    },
    /// `EXPOSE`
    Expose(Expose),
    /// `VOLUME`
    Volume(Volume),
    /// `USER`
    User {
        /// *word*. `user[:group]`, names or numbers.
        user: String,
    },
    /// `WORKDIR`
    Workdir {
        /// *word*. May be relative to the one before.
        path: String,
    },
    /// `STOPSIGNAL`
    Stopsignal {
        /// *word*. Name or number.
        signal: String,
    },
    /// `SHELL`
    Shell(Shell),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `ONBUILD`
    Onbuild(Onbuild),
    /// `MAINTAINER`
    Maintainer {
        /// *literal*
        name: String,
    },
}

/// A name and a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// *word*. Not empty as written.
    pub key: String,
    /// *word*. Quotes are still there.
    pub value: String,
    /// Written `KEY value` instead of `KEY=value`.
    pub legacy: bool,
}

/// `LABEL`
#[derive(Debug, Clone, Serialize)]
pub struct Label {
    /// At least one.
    pub pairs: Vec<Pair>,
}

/// `ARG`
#[derive(Debug, Clone, Serialize)]
pub struct Arg {
    /// At least one.
    pub items: Vec<ArgItem>,
}

/// One name that `ARG` declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArgItem {
    /// *literal*
    pub name: String,
    /// *word*, but only if no value is given to the build: a broken default that is not used is no error.
    pub default: Option<String>,
    /// What a comment right above says about it: `# name description`.
    pub description: Option<String>,
}

/// A command, for the shell or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// A line for the shell of `SHELL`. May be empty.
    Shell(String),
    /// JSON: the arguments themselves. May be empty.
    Exec(Vec<String>),
}

impl Command {
    /// Whether it is a line for the shell.
    pub fn is_shell(&self) -> bool {
        matches!(self, Self::Shell(_))
    }
}

/// A document within the Dockerfile: `<<NAME ... NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Heredoc {
    /// The delimiter, which is also the name of the file that `COPY` makes.
    pub name: String,
    /// The lines, as they stand in the Dockerfile: leading tabs are still there ([`Heredoc::content`] takes them off).
    pub raw: String,
    /// `<<NAME` rather than `<<"NAME"`: in `ADD` and `COPY` the content is *document*. `RUN` leaves that to the shell.
    pub expand: bool,
    /// `<<-NAME`: leading tabs do not belong to the content.
    pub chomp: bool,
    /// The digits before `<<`.
    pub descriptor: u64,
}

impl Heredoc {
    /// The content: [`Self::raw`], without leading tabs where `<<-` says so. Not expanded.
    pub fn content(&self) -> std::borrow::Cow<'_, str> {
        if !self.chomp || !self.raw.contains('\t') {
            return self.raw.as_str().into();
        }
        self.raw
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect::<String>()
            .into()
    }
}

/// What `ADD` and `COPY` copy, and where to.
#[derive(Debug, Clone, Serialize)]
pub struct Sources {
    /// *word*, each. Wildcards are still there.
    pub paths: Vec<String>,
    /// Documents; they are copied after the paths. [`Heredoc::content`], *document* where [`Heredoc::expand`].
    pub documents: Vec<Heredoc>,
    /// *word*. Relative to `WORKDIR`; with `/` at the end, a directory.
    pub dest: String,
}

/// `ADD`
#[derive(Debug, Clone, Serialize)]
pub struct Add {
    /// What and where to.
    pub sources: Sources,
    /// `--chown=`. *word*
    pub chown: Option<String>,
    /// `--chmod=`. *word*. Octal or symbolic; not judged here.
    pub chmod: Option<String>,
    /// `--link`
    pub link: bool,
    /// `--keep-git-dir`, if it was said.
    pub keep_git_dir: Option<bool>,
    /// `--checksum=`. *word*
    pub checksum: Option<String>,
    /// `--unpack`, if it was said.
    pub unpack: Option<bool>,
    /// `--exclude=`, each. *literal*
    pub exclude: Vec<String>,
}

/// `COPY`
#[derive(Debug, Clone, Serialize)]
pub struct Copy {
    /// What and where to.
    pub sources: Sources,
    /// `--from=`: a stage's name or index, a named context, an image. *literal*; one with variables is refused.
    pub from: Option<String>,
    /// `--chown=`. *word*
    pub chown: Option<String>,
    /// `--chmod=`. *word*. Octal or symbolic; not judged here.
    pub chmod: Option<String>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude=`, each. *literal*
    pub exclude: Vec<String>,
}

/// `RUN`
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// *literal*: the shell replaces variables.
    pub command: Command,
    /// Only with [`Command::Shell`].
    pub heredocs: Vec<Heredoc>,
    /// `--mount=`, each. Values are *word* ([`MountSpec::resolve`]).
    pub mounts: Vec<MountSpec>,
    /// `--network=`. *literal*
    pub network: Network,
    /// `--security=`. *literal*
    pub security: Security,
    /// `--device=`, each. *literal*
    pub devices: Vec<Device>,
}

/// `RUN --network=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// What the build as a whole has.
    #[default]
    Default,
    /// No network.
    None,
    /// The host's; takes an entitlement.
    Host,
}

/// `RUN --security=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Confined as containers are.
    #[default]
    Sandbox,
    /// Without confinement; takes an entitlement.
    Insecure,
}

/// `RUN --device=`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The CDI name, or part of one. Empty where only `required` was written.
    pub name: String,
    /// Its absence is an error.
    pub required: bool,
}

/// `EXPOSE`
#[derive(Debug, Clone, Serialize)]
pub struct Expose {
    /// *words*, each; sorted as `BuildKit` does. [`super::expose`] reads the result.
    pub ports: Vec<String>,
}

/// `VOLUME`
#[derive(Debug, Clone, Serialize)]
pub struct Volume {
    /// *word*, each.
    pub paths: Vec<String>,
}

/// `SHELL`
#[derive(Debug, Clone, Serialize)]
pub struct Shell {
    /// At least one. *literal*
    pub arguments: Vec<String>,
}

/// `HEALTHCHECK`
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`: not even the base's.
    None,
    /// `HEALTHCHECK CMD`
    Cmd(Probe),
}

/// `HEALTHCHECK CMD`. *literal*. Zero means: not said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// `CMD-SHELL` or `CMD` in the image's configuration. Not empty as written, if exec.
    pub command: Command,
    /// `--interval=`
    pub interval: Duration,
    /// `--timeout=`
    pub timeout: Duration,
    /// `--start-period=`
    pub start_period: Duration,
    /// `--start-interval=`
    pub start_interval: Duration,
    /// `--retries=`
    pub retries: u32,
}

/// `ONBUILD`
#[derive(Debug, Clone, Serialize)]
pub struct Onbuild {
    /// What stands in the image's configuration, with heredocs. *literal*; not judged before it is triggered, then by
    /// [`super::parse_onbuild`].
    pub expression: String,
}
