//! Text -> [`Dockerfile`]. Goes on after errors, so that all of them are reported at once.

use super::diagnostic::Diagnostic;
use super::fault::Fault;
use super::heredoc;
use super::instruction::{Dockerfile, GlobalArg, Instruction, Kind, Stage};
use super::limits;
use super::lines::{Reader, Statement};
use super::node::{Node, takes_heredocs};
use super::read;
use super::span::Span;

/// What could be read, and what could not.
#[derive(Debug)]
pub(super) struct Parsed {
    /// Without the instructions that are wrong; perhaps without a stage.
    pub(super) dockerfile: Dockerfile,
    pub(super) errors: Vec<Diagnostic>,
}

/// Reads a Dockerfile.
///
/// # Errors
///
/// All of them, in the order of their lines, up to [`limits::DIAGNOSTICS`].
pub fn parse(text: &[u8]) -> Result<Dockerfile, Vec<Diagnostic>> {
    let parsed = parse_partly(text);
    if parsed.errors.is_empty() {
        Ok(parsed.dockerfile)
    } else {
        Err(parsed.errors)
    }
}

/// Reads a trigger of `ONBUILD`, from the configuration of a base image or from a stage: one instruction.
///
/// The instruction has the place of the `FROM` that brings it; errors have it too, and name the trigger.
///
/// # Errors
///
/// What is no single instruction that a trigger may be.
pub fn parse_onbuild(text: &str, from: Span) -> Result<Instruction, Diagnostic> {
    let wrong = |message: &str| {
        Diagnostic::error(
            from,
            format!("cannot run the ONBUILD trigger {text:?}: {message}"),
        )
    };
    let mut reader = Reader::new(text.as_bytes());
    let mut found = None;
    while let Some(mut statement) = reader.statement() {
        let node = read_node(&mut reader, &mut statement).map_err(|fault| wrong(&fault.message))?;
        if found.replace((statement, node)).is_some() {
            return Err(wrong("onbuild trigger should be a single expression"));
        }
    }
    if let Some(error) = reader.errors.first() {
        return Err(wrong(&error.message));
    }
    let Some((mut statement, node)) = found else {
        return Err(wrong("file with no instructions"));
    };
    if node.keyword.eq_ignore_ascii_case("from") {
        return Err(wrong("FROM is not a command type"));
    }
    let mut instruction =
        instruction(&mut statement, node).map_err(|fault| wrong(&fault.message))?;
    instruction.span = from;
    Ok(instruction)
}

/// The syntax tree, one line for each instruction, as `BuildKit`'s parser dumps it.
///
/// # Errors
///
/// What that parser refuses: instructions that do not exist and wrong flags are no concern of its.
pub fn dump(text: &[u8]) -> Result<String, Vec<Diagnostic>> {
    let mut reader = Reader::new(text);
    let (mut out, mut errors) = (String::new(), Vec::new());
    while let Some(mut statement) = reader.statement() {
        match read_node(&mut reader, &mut statement) {
            Ok(node) => {
                out.push('(');
                node.dump(&mut out);
                out.push_str(")\n");
            }
            Err(fault) => errors.push(located(&statement, fault)),
        }
    }
    errors.append(&mut reader.errors);
    if out.is_empty() && errors.is_empty() {
        errors.push(no_instructions(&reader));
    }
    if errors.is_empty() {
        Ok(out)
    } else {
        Err(errors)
    }
}

/// As far as it goes.
pub(super) fn parse_partly(text: &[u8]) -> Parsed {
    let mut reader = Reader::new(text);
    let mut parser = Parser::default();
    while let Some(mut statement) = reader.statement() {
        parser.count += 1;
        if parser.count > limits::INSTRUCTIONS {
            let message = format!("refuse more than {} instructions", limits::INSTRUCTIONS);
            reader.stop(Diagnostic::error(statement.span, message));
            break;
        }
        match read_node(&mut reader, &mut statement) {
            Ok(node) => parser.take(statement, node),
            Err(fault) => parser.errors.push(located(&statement, fault)),
        }
        if parser.errors.len() + reader.errors.len() >= limits::DIAGNOSTICS {
            break;
        }
    }
    let mut errors = parser.errors;
    errors.append(&mut reader.errors);
    errors.sort_by_key(|error| (error.span.first_line, error.span.start));
    if parser.count == 0 && errors.is_empty() {
        errors.push(no_instructions(&reader));
    } else if parser.stages.is_empty() && errors.is_empty() {
        let span = parser
            .global_args
            .last()
            .map(|arg| arg.span)
            .unwrap_or_default();
        let error = Diagnostic::error(span, "dockerfile contains no stages to build");
        errors.push(error.with_hint("a Dockerfile begins with FROM; only ARG may stand before it"));
    }
    let dockerfile = Dockerfile {
        directives: reader.directives,
        global_args: parser.global_args,
        stages: parser.stages,
        empty_continuations: reader.empty_continuations,
    };
    Parsed { dockerfile, errors }
}

fn no_instructions(reader: &Reader<'_>) -> Diagnostic {
    let line = reader.number().max(1);
    Diagnostic::error(Span::new(0, 0, line, line), "file with no instructions")
}

/// A fault, where it stands in the file.
fn located(statement: &Statement, fault: Fault) -> Diagnostic {
    let span = fault
        .range
        .map_or(statement.span, |range| statement.place(&range));
    Diagnostic {
        hint: fault.hint,
        ..Diagnostic::error(span, fault.message)
    }
}

/// Takes a statement apart and reads the documents that follow it.
fn read_node(reader: &mut Reader<'_>, statement: &mut Statement) -> Result<Node, Fault> {
    let escape = reader.directives.escape;
    let node = Node::read(&statement.text, escape);
    let announces = match &node {
        Ok(node) => node.may_have_heredocs(),
        // Wrong, but its documents are no instructions.
        Err(_) => takes_heredocs(statement.text.split_whitespace().next().unwrap_or_default()),
    };
    if announces && statement.text.contains("<<") {
        let announced = heredoc::announced(&statement.text)?;
        reader.heredocs(statement, announced);
    }
    node
}

/// The instruction of a statement that is no `FROM`.
fn instruction(statement: &mut Statement, node: Node) -> Result<Instruction, Fault> {
    let keyword = node.keyword.clone();
    let heredocs = std::mem::take(&mut statement.heredocs);
    let kind = read::instruction(node, &statement.text, heredocs, &statement.comments)?;
    Ok(Instruction {
        span: statement.span,
        text: statement.text.trim().to_owned(),
        keyword,
        comments: std::mem::take(&mut statement.comments),
        kind,
    })
}

#[derive(Default)]
struct Parser {
    count: usize,
    global_args: Vec<GlobalArg>,
    stages: Vec<Stage>,
    /// A `FROM` was there, right or wrong.
    has_from: bool,
    /// That instructions come before the first `FROM` is said once.
    has_stray: bool,
    errors: Vec<Diagnostic>,
}

impl Parser {
    fn take(&mut self, mut statement: Statement, node: Node) {
        if node.keyword.eq_ignore_ascii_case("from") {
            self.has_from = true;
            return self.take_from(&statement, &node);
        }
        match instruction(&mut statement, node) {
            Err(fault) => self.errors.push(located(&statement, fault)),
            Ok(instruction) => self.take_instruction(instruction),
        }
    }

    fn take_from(&mut self, statement: &Statement, node: &Node) {
        let index = self.stages.len();
        let from = match read::from(node) {
            Ok(from) if index < limits::STAGES => from,
            Ok(_) => {
                let message = format!("refuse more than {} stages", limits::STAGES);
                return self.errors.push(Diagnostic::error(statement.span, message));
            }
            Err(fault) => return self.errors.push(located(statement, fault)),
        };
        self.stages.push(Stage {
            index,
            description: read::stage_description(&statement.comments, from.name.as_deref()),
            name: from.name,
            base: from.base,
            platform: from.platform,
            span: statement.span,
            text: statement.text.trim().to_owned(),
            keyword: node.keyword.clone(),
            as_keyword: node.arguments.get(1).cloned(),
            written_name: node.arguments.get(2).cloned(),
            comments: statement.comments.clone(),
            instructions: Vec::new(),
        });
    }

    fn take_instruction(&mut self, instruction: Instruction) {
        match (self.stages.last_mut(), instruction.kind) {
            (Some(stage), kind) => stage.instructions.push(Instruction {
                kind,
                ..instruction
            }),
            (None, Kind::Arg(arg)) => self.global_args.push(GlobalArg {
                span: instruction.span,
                text: instruction.text,
                comments: instruction.comments,
                keyword: instruction.keyword,
                arg,
            }),
            (None, _) if !self.has_from && !self.has_stray => {
                self.has_stray = true;
                let error =
                    Diagnostic::error(instruction.span, "no build stage in current context");
                self.errors.push(
                    error.with_hint("a Dockerfile begins with FROM; only ARG may stand before it"),
                );
            }
            (None, _) => {}
        }
    }
}
