//! One-time names of requests: 192 random bits each, for a minute, in a bounded table.

use crate::limits;
use crate::request::Request;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcrun_error::{Error, ErrorKind, Result};
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// Requests whose client has not come yet.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    waiting: HashMap<String, Request>,
    /// In the order in which they end.
    order: VecDeque<(Instant, String)>,
    weight: usize,
}

impl Tokens {
    /// A new token for a request.
    pub(crate) fn issue(&mut self, request: Request, now: Instant) -> Result<String> {
        self.expire(now);
        let weight = request.weight();
        if weight > limits::REQUEST_BYTES {
            return Err(Error::invalid("cannot keep a command of more than 1 MiB"));
        }
        if self.waiting.len() >= limits::TOKENS || self.weight + weight > limits::TOKEN_BYTES {
            return Err(Error::new(
                ErrorKind::Exhausted,
                "cannot issue another URL: too many wait for their clients; try again in a minute",
            ));
        }
        let mut bits = [0; 24];
        rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty()).map_err(
            |errno| {
                Error::new(
                    ErrorKind::Internal,
                    format!("cannot get random bytes: {errno}"),
                )
            },
        )?;
        let token = URL_SAFE_NO_PAD.encode(bits);
        self.weight += weight;
        self.waiting.insert(token.clone(), request);
        self.order
            .push_back((now + limits::TOKEN_TIME, token.clone()));
        Ok(token)
    }

    /// The request of a token, once, and only for the verb that it was issued for.
    pub(crate) fn take(&mut self, verb: &str, token: &str, now: Instant) -> Option<Request> {
        self.expire(now);
        if self.waiting.get(token)?.verb() != verb {
            return None;
        }
        let request = self.waiting.remove(token)?;
        self.weight -= request.weight();
        Some(request)
    }

    /// Forgets those whose time is over; of those that were taken, that they were.
    fn expire(&mut self, now: Instant) {
        while let Some((end, token)) = self.order.front() {
            // `order` may be longer than `waiting` by those that were taken within the last minute.
            if *end > now && self.waiting.contains_key(token) {
                break;
            }
            if let Some(request) = self.waiting.remove(token) {
                self.weight -= request.weight();
            }
            self.order.pop_front();
        }
        if self.order.len() > 2 * limits::TOKENS {
            let waiting = &self.waiting;
            self.order.retain(|(_, token)| waiting.contains_key(token));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::PortForwardRequest;
    use std::time::Duration;

    fn request(sandbox: &str) -> Request {
        Request::PortForward(PortForwardRequest {
            sandbox: sandbox.to_owned(),
            ports: Vec::new(),
        })
    }

    #[test]
    fn a_token_is_valid_once() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let token = tokens.issue(request("a"), now).unwrap();
        assert_eq!(token.len(), 32);
        assert_eq!(tokens.take("portforward", &token, now), Some(request("a")));
        assert_eq!(tokens.take("portforward", &token, now), None);
    }

    #[test]
    fn a_token_is_valid_for_a_minute() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let early = tokens.issue(request("a"), now).unwrap();
        let late = tokens
            .issue(request("b"), now + Duration::from_secs(30))
            .unwrap();
        let then = now + limits::TOKEN_TIME;
        assert_eq!(tokens.take("portforward", &early, then), None);
        assert_eq!(tokens.take("portforward", &late, then), Some(request("b")));
        assert_eq!((tokens.weight, tokens.waiting.len()), (0, 0));
    }

    #[test]
    fn a_token_is_valid_for_its_verb() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let token = tokens.issue(request("a"), now).unwrap();
        assert_eq!(tokens.take("exec", &token, now), None);
        assert!(tokens.take("portforward", &token, now).is_some());
    }

    #[test]
    fn tokens_are_bounded_by_number_and_by_weight() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        for _ in 0..limits::TOKENS {
            tokens.issue(request("a"), now).unwrap();
        }
        let error = tokens.issue(request("a"), now).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        let later = now + limits::TOKEN_TIME;
        tokens.issue(request("a"), later).unwrap();
        let mut tokens = Tokens::default();
        let large = "x".repeat(limits::REQUEST_BYTES - 100);
        while tokens.issue(request(&large), now).is_ok() {}
        assert!(tokens.weight <= limits::TOKEN_BYTES && tokens.waiting.len() == 16);
        assert!(
            tokens
                .issue(request(&"x".repeat(limits::REQUEST_BYTES)), later)
                .is_err()
        );
    }

    #[test]
    fn tokens_that_were_taken_leave_nothing() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        // One that is never taken stays in front of all others.
        tokens.issue(request("a"), now).unwrap();
        for _ in 0..100_000 {
            let token = tokens.issue(request("b"), now).unwrap();
            tokens.take("portforward", &token, now).unwrap();
        }
        assert!(tokens.order.len() <= 2 * limits::TOKENS + 1 && tokens.waiting.len() == 1);
    }

    #[test]
    fn tokens_do_not_repeat() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let all: std::collections::HashSet<String> = (0..limits::TOKENS)
            .map(|_| tokens.issue(request("a"), now).unwrap())
            .collect();
        assert_eq!(all.len(), limits::TOKENS);
    }
}
