//! The environment of each instruction: global arguments, and the walk through a stage.
//!
//! Owns the scopes of `ARG`, which values an argument gets, which words of an instruction variables are replaced in, and
//! what is to be said of variables that nobody declared. Builder and checks walk with the same [`Scope`]; they differ in
//! what they know of base images.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rcrun_image::platform::Platform;

use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::instruction::{Arg, ArgItem, Dockerfile, Instruction, Kind, Pair, Sources};
use super::judge::judge;
use super::limits;
use super::mount::Mount;
use super::span::Span;
use super::suggest::closest;
use super::word::{Expanded, Lookup, WordError, Words};

/// `PATH` of images that have none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments that say something to the builder and are no variables.
const NO_VARIABLES: &[&str] = &["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Arguments that need no `ARG`: the environment of `RUN` has them, neither history nor cache do.
pub const PROXY_ARGUMENTS: &[&str] = &[
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// What the build was asked for, as far as variables depend on it.
#[derive(Debug, Clone)]
pub struct Request {
    /// `--build-arg`
    pub build_args: BTreeMap<String, String>,
    /// Where the build runs.
    pub build_platform: Platform,
    /// What it builds for.
    pub target_platform: Platform,
    /// `--target`
    pub target: Option<String>,
}

impl Default for Request {
    fn default() -> Self {
        let platform = Platform::host();
        Self {
            build_args: BTreeMap::new(),
            build_platform: platform.clone(),
            target_platform: platform,
            target: None,
        }
    }
}

impl Request {
    /// What `RUN` sees of build arguments that are about proxies, in both cases of letters.
    pub fn proxies(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for known in PROXY_ARGUMENTS {
            let value = self
                .build_args
                .iter()
                .rfind(|(name, _)| name.eq_ignore_ascii_case(known));
            if let Some((_, value)) = value {
                found.push(((*known).to_owned(), value.clone()));
                found.push((known.to_lowercase(), value.clone()));
            }
        }
        found
    }
}

/// A global argument.
#[derive(Debug, Clone)]
pub struct GlobalValue {
    /// What declares it.
    pub item: ArgItem,
    /// Its value, if it has one.
    pub value: Option<String>,
    /// The variables that its default is made of.
    pub depends: BTreeSet<String>,
    /// Where it is declared.
    pub span: Span,
}

/// The global arguments: platform and target, and the `ARG` before the first `FROM`.
#[derive(Debug, Clone, Default)]
pub struct Globals {
    /// Values.
    pub environment: Environment,
    /// What the Dockerfile declares.
    pub declared: BTreeMap<String, GlobalValue>,
}

impl Globals {
    /// Their values in a build.
    ///
    /// # Errors
    ///
    /// A default that cannot be expanded.
    pub fn new(dockerfile: &Dockerfile, request: &Request) -> Result<Self, Diagnostic> {
        Self::with(dockerfile, request, &request.build_args)
    }

    /// Their values if nobody gave any.
    pub(super) fn defaults(dockerfile: &Dockerfile, request: &Request) -> Result<Self, Diagnostic> {
        Self::with(dockerfile, request, &BTreeMap::new())
    }

    fn with(
        dockerfile: &Dockerfile,
        request: &Request,
        given: &BTreeMap<String, String>,
    ) -> Result<Self, Diagnostic> {
        let mut globals = Self::default();
        for (name, value) in predefined(dockerfile, request) {
            let value = request
                .build_args
                .get(name)
                .map_or(value.as_str(), String::as_str);
            globals.environment.set(name, value);
        }
        let words = Words::new(dockerfile.directives.escape);
        for arg in &dockerfile.global_args {
            for item in &arg.arg.items {
                globals
                    .declare(item, arg.span, given, &words)
                    .map_err(|error| at(arg.span, &error))?;
            }
        }
        Ok(globals)
    }

    fn declare(
        &mut self,
        item: &ArgItem,
        span: Span,
        given: &BTreeMap<String, String>,
        words: &Words,
    ) -> Result<(), WordError> {
        let mut depends = BTreeSet::new();
        let value = match (given.get(&item.name), &item.default) {
            (Some(value), _) => Some(value.clone()),
            (None, None) => None,
            (None, Some(default)) => {
                let expanded = words.expand(default, &self.environment)?;
                depends = expanded.matched;
                // `ARG a=$a` depends on what the `a` before depended on.
                if depends.remove(&item.name)
                    && let Some(before) = self.declared.get(&item.name)
                {
                    depends.extend(before.depends.iter().cloned());
                }
                Some(expanded.value)
            }
        };
        if let Some(value) = &value {
            self.environment.set(&item.name, value);
        }
        check_size(&self.environment)?;
        self.declared.insert(
            item.name.clone(),
            GlobalValue {
                item: item.clone(),
                value,
                depends,
                span,
            },
        );
        Ok(())
    }

    /// Whether a name has a value.
    pub(super) fn environment_has(&self, name: &str) -> bool {
        self.environment.get(name).is_some()
    }

    /// Names that `FROM` may use.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let set = self.environment.names();
        self.declared
            .keys()
            .cloned()
            .chain(set.iter().map(ToString::to_string))
            .collect()
    }
}

fn check_size(environment: &Environment) -> Result<(), WordError> {
    if environment.written() > limits::ENVIRONMENT_BYTES {
        let message = format!(
            "refuse variables of more than {} bytes",
            limits::ENVIRONMENT_BYTES
        );
        return Err(WordError::new(message));
    }
    Ok(())
}

fn predefined(dockerfile: &Dockerfile, request: &Request) -> [(&'static str, String); 11] {
    let (build, target) = (&request.build_platform, &request.target_platform);
    let with_version = match target.os_version.as_str() {
        "" => target.to_string(),
        version => target
            .to_string()
            .replacen(&target.os, &format!("{}({version})", target.os), 1),
    };
    let last = dockerfile
        .stages
        .last()
        .and_then(|stage| stage.name.clone());
    let stage = request
        .target
        .clone()
        .filter(|target| !target.is_empty())
        .or(last);
    [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", build.os_version.clone()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", build.variant.clone()),
        ("TARGETPLATFORM", with_version),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", target.os_version.clone()),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", target.variant.clone()),
        ("TARGETSTAGE", stage.unwrap_or_else(|| "default".into())),
    ]
}

pub(super) fn at(span: Span, error: &WordError) -> Diagnostic {
    let hint = error.hint().map(str::to_owned);
    Diagnostic {
        hint,
        ..Diagnostic::error(span, error.to_string())
    }
}

/// A variable that an instruction uses and nobody declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undefined {
    /// Its name.
    pub name: String,
    /// What may have been meant.
    pub meant: Option<String>,
}

/// An instruction with its variables replaced.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The instruction: words are values, documents are their final content, `EXPOSE` may have more or fewer ports, and
    /// the default of each `ARG` is its value.
    pub kind: Kind,
    /// The mounts of `RUN`.
    pub mounts: Vec<Mount>,
}

/// The walk through a stage.
#[derive(Debug, Clone)]
pub struct Scope<'g> {
    words: Words,
    globals: &'g Globals,
    request: &'g Request,
    environment: Environment,
    undefined: Vec<Undefined>,
    /// Bytes of values that the instruction has so far.
    bytes: usize,
}

impl<'g> Scope<'g> {
    /// At the beginning of a stage that is built on an image with this environment (`NAME=value`), or on nothing.
    pub fn on_image(
        dockerfile: &Dockerfile,
        globals: &'g Globals,
        request: &'g Request,
        image: &[String],
    ) -> Self {
        let mut environment = Environment::default();
        for pair in image {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            environment.keep(name, value);
        }
        if environment.get("PATH").is_none() && request.target_platform.os != "windows" {
            environment.keep("PATH", DEFAULT_PATH);
        }
        let words = Words::new(dockerfile.directives.escape);
        Self {
            words,
            globals,
            request,
            environment,
            undefined: Vec::new(),
            bytes: 0,
        }
    }

    /// At the beginning of a stage that is built on another, which has been walked through.
    #[must_use]
    pub fn on_stage(&self) -> Self {
        let mut scope = Self {
            undefined: Vec::new(),
            ..self.clone()
        };
        scope.environment.restore_kept();
        scope
    }

    /// The variables, after the instructions that were applied.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The arguments declared so far with their values, each name once: what the history of `RUN` shows, and what the
    /// cache has to know.
    pub fn arguments(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.environment.declared()
    }

    /// Variables that were used and that nobody declared, since the last call.
    pub fn take_undefined(&mut self) -> Vec<Undefined> {
        std::mem::take(&mut self.undefined)
    }

    /// Replaces the variables of an instruction, and takes over what it sets.
    ///
    /// # Errors
    ///
    /// Words that cannot be expanded; mounts that cannot be.
    pub fn apply(&mut self, instruction: &Instruction) -> Result<Applied, Diagnostic> {
        let mut kind = instruction.kind.clone();
        self.bytes = 0;
        let mounts = self
            .expand(&mut kind)
            .and_then(|mounts| judge(&kind).map(|()| mounts));
        let mounts = mounts.map_err(|error| at(instruction.span, &error))?;
        Ok(Applied { kind, mounts })
    }

    fn expand(&mut self, kind: &mut Kind) -> Result<Vec<Mount>, WordError> {
        match kind {
            Kind::Env { pairs } => {
                self.pairs(pairs)?;
                for pair in pairs {
                    self.environment.keep(&pair.key, &pair.value);
                }
                check_size(&self.environment)?;
            }
            Kind::Label(label) => self.pairs(&mut label.pairs)?,
            Kind::Arg(arg) => self.arg(arg)?,
            Kind::Add(add) => {
                for flag in [&mut add.chown, &mut add.chmod, &mut add.checksum]
                    .into_iter()
                    .flatten()
                {
                    self.word(flag)?;
                }
                self.sources(&mut add.sources)?;
            }
            Kind::Copy(copy) => {
                for flag in [&mut copy.chown, &mut copy.chmod].into_iter().flatten() {
                    self.word(flag)?;
                }
                self.sources(&mut copy.sources)?;
            }
            Kind::Run(run) => {
                let mounts = run.mounts.iter().map(|mount| {
                    mount.resolve(&mut |word| {
                        let mut word = word.to_owned();
                        self.word(&mut word)?;
                        Ok(word)
                    })
                });
                return mounts.collect();
            }
            Kind::Expose(expose) => {
                let mut ports = Vec::new();
                for port in &expose.ports {
                    let words = self.words.split(port, &self.environment)?;
                    self.count(words.iter().map(|word| word.len() + 1).sum())?;
                    ports.extend(words);
                }
                expose.ports = ports;
            }
            Kind::Volume(volume) => volume
                .paths
                .iter_mut()
                .try_for_each(|path| self.word(path))?,
            Kind::User { user: word }
            | Kind::Workdir { path: word }
            | Kind::Stopsignal { signal: word } => self.word(word)?,
            Kind::Cmd { .. }
            | Kind::Entrypoint { .. }
            | Kind::Shell(_)
            | Kind::Healthcheck(_)
            | Kind::Onbuild(_)
            | Kind::Maintainer { .. } => {}
        }
        Ok(Vec::new())
    }

    fn word(&mut self, word: &mut String) -> Result<(), WordError> {
        let read = self.words.expand(word, &self.environment);
        *word = self.seen(read)?;
        Ok(())
    }

    /// Counts the bytes of a value.
    fn count(&mut self, bytes: usize) -> Result<(), WordError> {
        self.bytes += bytes;
        if self.bytes > limits::INSTRUCTION_VALUES {
            let message = format!(
                "refuse an instruction with values of more than {} bytes",
                limits::INSTRUCTION_VALUES
            );
            return Err(WordError::new(message));
        }
        Ok(())
    }

    /// Notes which variables a word uses that nobody declared.
    fn seen(&mut self, read: Result<Expanded, WordError>) -> Result<String, WordError> {
        let unmatched = match &read {
            Ok(expanded) => &expanded.unmatched,
            Err(error) => &error.unmatched,
        };
        for name in unmatched {
            if self.environment.is_declared(name) || NO_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let names = match self.environment.len() {
                0..=limits::SUGGESTIONS => self.environment.names(),
                _ => Vec::new(),
            };
            let meant = closest(name, names.iter().map(|name| &**name)).map(str::to_owned);
            self.undefined.push(Undefined {
                name: name.clone(),
                meant,
            });
        }
        let value = read?.value;
        self.count(value.len())?;
        Ok(value)
    }

    fn pairs(&mut self, pairs: &mut [Pair]) -> Result<(), WordError> {
        for pair in pairs {
            self.word(&mut pair.key)?;
            self.word(&mut pair.value)?;
        }
        Ok(())
    }

    fn sources(&mut self, sources: &mut Sources) -> Result<(), WordError> {
        for path in &mut sources.paths {
            self.word(path)?;
        }
        self.word(&mut sources.dest)?;
        for document in &mut sources.documents {
            let mut content = document.content().into_owned();
            if document.expand {
                let read = Words::document(&content, &self.environment);
                content = self.seen(read)?;
            }
            (document.raw, document.chomp, document.expand) = (content, false, false);
        }
        Ok(())
    }

    /// Each argument sees those before it. What is given to the build comes first, then the default, then, where there
    /// is none, a global argument of this name.
    fn arg(&mut self, arg: &mut Arg) -> Result<(), WordError> {
        for item in &mut arg.items {
            let value = match (self.request.build_args.get(&item.name), &item.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let read = self.words.expand(default, &self.environment);
                    Some(self.seen(read)?)
                }
                (None, None) => self.globals.environment.get(&item.name).map(str::to_owned),
            };
            if let Some(value) = &value
                && !NO_VARIABLES.contains(&item.name.as_str())
            {
                self.environment.set(&item.name, value);
            }
            self.environment.declare(&item.name, value.as_deref());
            item.default = value;
            check_size(&self.environment)?;
        }
        Ok(())
    }
}
