//! `SOURCE_DATE_EPOCH`: where the time of an image comes from. Decides only; who asks servers is the
//! caller.
//!
//! BuildKit's rules (`frontend/dockerfile/dockerfile2llb/epoch.go`): a number of seconds; `context`, the
//! main context; the name of a context; or that of a stage which is nothing but one remote file. A value
//! that is given to the build comes before the default of an `ARG` in front of the first `FROM`.

use super::copy::{CopySource, remote};
use super::stage::{SCRATCH, request_of};
use super::{At, Problem, Wanted};
use crate::Error;
use crate::dockerfile::scope::Globals;
use crate::dockerfile::{
    Add, Arg, ArgItem, Dockerfile, Environment, Kind, Span, Stage, WordError, Words,
};

/// The argument.
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
/// The main context.
const CONTEXT: &str = "context";

/// Where the time comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Epoch {
    /// Nobody says one.
    Unset,
    /// Seconds since 1970.
    Seconds(i64),
    /// That of the main context.
    Context,
    /// That of a context, by its name.
    Named(String),
    /// That of what a stage adds.
    Added {
        /// The file or repository.
        source: CopySource,
        /// What it must be.
        checksum: Option<String>,
    },
}

/// What a Dockerfile and the arguments of the build say.
pub fn epoch(file: &Dockerfile, wanted: &Wanted) -> Result<Epoch, Problem> {
    let globals = Globals::new(file, &request_of(wanted))?;
    let given = wanted.arguments.get(SOURCE_DATE_EPOCH);
    let text = match given {
        Some(given) => given.as_str(),
        None => crate::dockerfile::Lookup::get(&globals.environment, SOURCE_DATE_EPOCH)
            .unwrap_or_default(),
    };
    if text.is_empty() {
        return Ok(Epoch::Unset);
    }
    if let Ok(seconds) = text.parse() {
        return Ok(Epoch::Seconds(seconds));
    }
    if text == CONTEXT {
        return Ok(Epoch::Context);
    }
    let name = text.to_lowercase();
    if wanted.contexts.contains_key(&name) {
        return Ok(Epoch::Named(name));
    }
    let named = |stage: &&Stage| stage.name.as_ref() == Some(&name);
    match file.stages.iter().find(named) {
        Some(stage) => of_stage(file, wanted, &globals, stage),
        None => {
            let error = Error::invalid(format!("invalid {SOURCE_DATE_EPOCH}: {text}"));
            let error = error.with_hint(
                "give a number of seconds, \"context\", or the name of a context or of a stage",
            );
            let global = globals.declared.get(SOURCE_DATE_EPOCH);
            Err(match global.filter(|_| given.is_none()) {
                Some(global) => Problem::at(global.span, error),
                None => Problem::from(error),
            })
        }
    }
}

/// The Dockerfile and the arguments once the time is known: what stages see is a number, or nothing.
pub fn settle(file: &Dockerfile, wanted: &Wanted, seconds: Option<i64>) -> (Dockerfile, Wanted) {
    let (mut file, mut wanted) = (file.clone(), wanted.clone());
    wanted.epoch = seconds;
    let text = seconds.map(|seconds| seconds.to_string());
    if let Some(given) = wanted.arguments.remove(SOURCE_DATE_EPOCH) {
        let value = text.clone().filter(|_| !given.is_empty());
        wanted
            .arguments
            .extend(value.map(|value| (SOURCE_DATE_EPOCH.to_owned(), value)));
    }
    for global in &mut file.global_args {
        let items = &mut global.arg.items;
        for item in items.iter_mut().filter(|item| is_epoch(item)) {
            item.default.clone_from(&text);
        }
        items.retain(|item| !is_epoch(item) || text.is_some());
    }
    (file, wanted)
}

fn is_epoch(item: &ArgItem) -> bool {
    item.name == SOURCE_DATE_EPOCH
}

/// What a stage adds, which may do nothing else.
fn of_stage(
    file: &Dockerfile,
    wanted: &Wanted,
    globals: &Globals,
    stage: &Stage,
) -> Result<Epoch, Problem> {
    let words = Words::new(file.directives.escape);
    let mut variables = globals.environment.clone();
    // It cannot depend on itself.
    variables.set(SOURCE_DATE_EPOCH, "");
    let wrong = |span: Span, text: &str| {
        let text = format!("a stage for {SOURCE_DATE_EPOCH} {text}");
        Err(Problem::at(span, Error::invalid(text)))
    };
    if expanded(&words, &stage.base, &variables, stage.span)? != SCRATCH {
        return wrong(stage.span, "must be FROM scratch");
    }
    let mut added = None;
    for instruction in &stage.instructions {
        let span = instruction.span;
        match &instruction.kind {
            Kind::Arg(arg) => declare(arg, &words, wanted, &mut variables, span)?,
            Kind::Add(_) if added.is_some() => {
                return wrong(span, "must have exactly one ADD");
            }
            Kind::Add(add) => match source(add, &words, &variables, span)? {
                Some(found) => added = Some(found),
                None => return wrong(span, "must ADD one file of a server, or one repository"),
            },
            _ => {
                let text = format!(
                    "must be a source only: {} is not possible there",
                    instruction.keyword.to_uppercase()
                );
                return wrong(span, &text);
            }
        }
    }
    match added {
        Some(added) => Ok(added),
        None => wrong(stage.span, "must have exactly one ADD"),
    }
}

fn source(
    add: &Add,
    words: &Words,
    variables: &Environment,
    span: Span,
) -> Result<Option<Epoch>, Problem> {
    let [path] = add.sources.paths.as_slice() else {
        return Ok(None);
    };
    if !add.sources.documents.is_empty() {
        return Ok(None);
    }
    let Some(source) = remote(&expanded(words, path, variables, span)?).at(span)? else {
        return Ok(None);
    };
    let checksum = match &add.checksum {
        Some(text) => Some(expanded(words, text, variables, span)?).filter(|text| !text.is_empty()),
        None => None,
    };
    Ok(Some(Epoch::Added { source, checksum }))
}

fn declare(
    arg: &Arg,
    words: &Words,
    wanted: &Wanted,
    variables: &mut Environment,
    span: Span,
) -> Result<(), Problem> {
    for item in &arg.items {
        let value = match (wanted.arguments.get(&item.name), &item.default) {
            (Some(given), _) => given.clone(),
            (None, Some(default)) => expanded(words, default, variables, span)?,
            (None, None) => continue,
        };
        variables.set(&item.name, &value);
    }
    Ok(())
}

fn expanded(
    words: &Words,
    word: &str,
    variables: &Environment,
    span: Span,
) -> Result<String, Problem> {
    let wrong = |error: WordError| Problem::at(span, Error::invalid(error.to_string()));
    Ok(words.expand(word, variables).map_err(wrong)?.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;
    use crate::graph::Named;

    fn of(text: &str, arguments: &[(&str, &str)]) -> Result<Epoch, Problem> {
        let wanted = Wanted {
            arguments: arguments
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            contexts: [("other".to_owned(), Named::Image("x".into()))].into(),
            ..Wanted::default()
        };
        epoch(&parse(text.as_bytes()).unwrap(), &wanted)
    }

    fn http(url: &str, checksum: Option<&str>) -> Epoch {
        Epoch::Added {
            source: CopySource::Http(url.to_owned()),
            checksum: checksum.map(str::to_owned),
        }
    }

    #[test]
    fn where_the_time_comes_from() {
        const E: &str = SOURCE_DATE_EPOCH;
        let stage = "ARG SOURCE_DATE_EPOCH=src\nARG V=1\nFROM scratch AS src\n\
                     ARG F=f$V\nADD --checksum=$SUM http://h/$F.tar /\nFROM scratch\n";
        let git = Epoch::Added {
            source: CopySource::Git("https://h/a.git#v1".into()),
            checksum: None,
        };
        for (text, arguments, expected) in [
            ("FROM scratch\n", &[][..], Epoch::Unset),
            ("FROM scratch\n", &[(E, "7")], Epoch::Seconds(7)),
            ("FROM scratch\n", &[(E, "-7")], Epoch::Seconds(-7)),
            ("FROM scratch\n", &[(E, "context")], Epoch::Context),
            (
                "FROM scratch\n",
                &[(E, "Other")],
                Epoch::Named("other".into()),
            ),
            (
                "ARG SOURCE_DATE_EPOCH=8\nFROM scratch\n",
                &[],
                Epoch::Seconds(8),
            ),
            (
                "ARG SOURCE_DATE_EPOCH=8\nFROM scratch\n",
                &[(E, "9")],
                Epoch::Seconds(9),
            ),
            (
                "ARG SOURCE_DATE_EPOCH=8\nFROM scratch\n",
                &[(E, "")],
                Epoch::Unset,
            ),
            (
                "ARG T=10\nARG SOURCE_DATE_EPOCH=$T\nFROM scratch\n",
                &[],
                Epoch::Seconds(10),
            ),
            // Only in front of the first stage it says anything about the image.
            ("FROM scratch\nARG SOURCE_DATE_EPOCH=8\n", &[], Epoch::Unset),
            (stage, &[], http("http://h/f1.tar", None)),
            (
                stage,
                &[("F", "g"), ("SUM", "sha256:x")],
                http("http://h/g.tar", None),
            ),
            (
                stage,
                &[("V", "2"), (E, "SRC")],
                http("http://h/f2.tar", None),
            ),
            (stage, &[(E, "11")], Epoch::Seconds(11)),
            (
                "ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD https://h/a.git#v1 /\n",
                &[],
                git,
            ),
            (
                "ARG SUM=sha256:y\nFROM scratch AS src\nADD --checksum=$SUM http://h/f /\n",
                &[(E, "src")],
                http("http://h/f", Some("sha256:y")),
            ),
        ] {
            assert_eq!(
                of(text, arguments).unwrap(),
                expected,
                "{text} {arguments:?}"
            );
        }
    }

    #[test]
    fn stages_see_a_number_or_nothing() {
        let file = parse(b"ARG SOURCE_DATE_EPOCH=context A=1\nFROM scratch\n").unwrap();
        let given = |text: &str| Wanted {
            arguments: [(SOURCE_DATE_EPOCH.to_owned(), text.to_owned())].into(),
            ..Wanted::default()
        };
        let default = |file: &Dockerfile| -> Option<String> {
            let items = &file.global_args[0].arg.items;
            assert!(items.iter().any(|item| item.name == "A"));
            items.iter().find(|item| is_epoch(item))?.default.clone()
        };
        let argument = |wanted: &Wanted| wanted.arguments.get(SOURCE_DATE_EPOCH).cloned();
        for (wanted, seconds, expected, in_file) in [
            (Wanted::default(), Some(5), None, Some("5")),
            (Wanted::default(), None, None, None),
            (given("context"), Some(5), Some("5"), Some("5")),
            (given("context"), None, None, None),
            (given(""), None, None, None),
        ] {
            let (file, wanted) = settle(&file, &wanted, seconds);
            assert_eq!(argument(&wanted).as_deref(), expected);
            assert_eq!(wanted.epoch, seconds);
            assert_eq!(default(&file).as_deref(), in_file);
        }
    }

    #[test]
    fn what_is_refused() {
        for (stages, line, part) in [
            ("FROM scratch\n", 1, "invalid SOURCE_DATE_EPOCH: src"),
            (
                "FROM scratch AS src\nCOPY f /\n",
                3,
                "source only: COPY is not possible",
            ),
            (
                "FROM scratch AS src\nADD f /\n",
                3,
                "one file of a server, or one repository",
            ),
            (
                "FROM scratch AS src\nADD http://h/a http://h/b /\n",
                3,
                "one file",
            ),
            (
                "FROM scratch AS src\nADD http://h/a /\nADD http://h/b /\n",
                4,
                "exactly one",
            ),
            ("FROM scratch AS src\nARG A=1\n", 2, "exactly one ADD"),
            ("FROM busybox AS src\nADD http://h/a /\n", 2, "FROM scratch"),
        ] {
            let text = format!("ARG SOURCE_DATE_EPOCH=src\n{stages}");
            let problem = of(&text, &[]).unwrap_err();
            let said = problem.error.to_string();
            assert!(said.contains(part), "{said}");
            assert_eq!(problem.span.unwrap().first_line, line, "{said}");
        }
        assert!(of("FROM scratch\n", &[(SOURCE_DATE_EPOCH, "x")]).is_err());
    }
}
