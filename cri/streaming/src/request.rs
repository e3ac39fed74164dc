//! What a URL stands for: the requests of the CRI, and what of them is refused before there is a URL.

use crate::limits;
use rcrun_error::{Error, Result};

/// Run a program in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// In this one.
    pub container: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Which streams.
    pub streams: Wanted,
}

/// Join the streams of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// Of this one.
    pub container: String,
    /// Which streams.
    pub streams: Wanted,
}

/// Connect to ports of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForwardRequest {
    /// The pod.
    pub sandbox: String,
    /// The ports, which only the WebSocket channels need: SPDY names a port with each connection.
    pub ports: Vec<u16>,
}

/// The streams that a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `/exec/TOKEN`
    Exec(ExecRequest),
    /// `/attach/TOKEN`
    Attach(AttachRequest),
    /// `/portforward/TOKEN`
    PortForward(PortForwardRequest),
}

impl Wanted {
    /// Refuses what has no meaning, as the CRI says.
    ///
    /// # Errors
    ///
    /// If no stream is wanted, or standard error beside a terminal, which has one output only.
    pub fn validate(self) -> Result<()> {
        if self.tty && self.stderr {
            return Err(Error::invalid(
                "cannot use tty together with stderr: a terminal has one output",
            ));
        }
        if !(self.stdin || self.stdout || self.stderr) {
            return Err(Error::invalid(
                "cannot stream nothing: one of stdin, stdout and stderr must be set",
            ));
        }
        Ok(())
    }
}

impl Request {
    /// Refuses what can never be served.
    pub(crate) fn validate(&self) -> Result<()> {
        match self {
            Self::Exec(exec) if exec.command.is_empty() => {
                Err(Error::invalid("cannot run an empty command"))
            }
            Self::Exec(ExecRequest { streams, .. })
            | Self::Attach(AttachRequest { streams, .. }) => streams.validate(),
            Self::PortForward(forward) => {
                if forward.ports.contains(&0) {
                    return Err(Error::invalid("cannot forward port 0"));
                }
                if forward.ports.len() > limits::PORTS {
                    let most = limits::PORTS;
                    return Err(Error::invalid(format!(
                        "cannot forward more than {most} ports at once"
                    )));
                }
                Ok(())
            }
        }
    }

    /// The part of the URL that names the kind.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }

    /// What keeping it costs, about.
    pub(crate) fn weight(&self) -> usize {
        const EACH: usize = 32;
        let texts: &mut dyn Iterator<Item = &String> = match self {
            Self::Exec(exec) => &mut exec.command.iter().chain([&exec.container]),
            Self::Attach(attach) => &mut [&attach.container].into_iter(),
            Self::PortForward(forward) => &mut [&forward.sandbox].into_iter(),
        };
        texts.map(|text| text.len() + EACH).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_have_no_meaning_are_refused() {
        for stdin in [false, true] {
            for stdout in [false, true] {
                for stderr in [false, true] {
                    for tty in [false, true] {
                        let wanted = Wanted {
                            stdin,
                            stdout,
                            stderr,
                            tty,
                        };
                        let good = (stdin || stdout || stderr) && !(tty && stderr);
                        assert_eq!(wanted.validate().is_ok(), good, "{wanted:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn ports_and_commands_are_checked() {
        let forward = |ports| {
            let sandbox = "pod".to_owned();
            Request::PortForward(PortForwardRequest { sandbox, ports })
        };
        assert!(forward(Vec::new()).validate().is_ok());
        assert!(forward(vec![80]).validate().is_ok());
        assert!(forward(vec![0]).validate().is_err());
        assert!(forward(vec![1; limits::PORTS + 1]).validate().is_err());
        let exec = ExecRequest {
            container: "c".to_owned(),
            command: Vec::new(),
            streams: Wanted {
                stdout: true,
                ..Wanted::default()
            },
        };
        assert!(Request::Exec(exec).validate().is_err());
    }
}
