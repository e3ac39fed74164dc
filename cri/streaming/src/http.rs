//! The one request of a connection: its head is read, judged, and answered by an upgrade or an error.
//!
//! Not hyper: every connection has one request without a body, whose answer gives the socket away or ends it. There is
//! nothing behind it that two readers could understand differently, and no client is served twice. Neither `Host` nor
//! `Origin` is compared with anything: a kubelet passes both on from its own client, so that they name any host; what
//! lets a client in is the token, which no page of a browser can know.

use crate::limits;

/// What a client wants to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// `Upgrade: SPDY/3.1`
    Spdy,
    /// `Upgrade: websocket`
    WebSocket,
}

/// A request that may be served.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The first part of the path.
    pub verb: String,
    /// The second.
    pub token: String,
    /// What to speak.
    pub upgrade: Upgrade,
    /// `X-Stream-Protocol-Version`, or `Sec-WebSocket-Protocol`, in the client's order.
    pub protocols: Vec<String>,
    /// `Sec-WebSocket-Key`.
    pub key: String,
}

/// A request that is answered with an error.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The status code.
    pub status: u16,
    /// Why.
    pub why: &'static str,
}

fn refused(status: u16, why: &'static str) -> Refused {
    Refused { status, why }
}

/// Reads a head: `None` if it is not complete, else it and its length.
///
/// # Errors
///
/// If it is not HTTP/1.1, or not a request that this server answers.
pub fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Refused> {
    let mut fields = [httparse::EMPTY_HEADER; limits::HEAD_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < limits::HEAD => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(refused(431, "the request is too large"));
        }
        Err(_) => return Err(refused(400, "this is not a request of HTTP/1.1")),
    };
    judge(&request).map(|head| Some((head, length)))
}

fn judge(request: &httparse::Request<'_, '_>) -> Result<Head, Refused> {
    let fields = Fields(request.headers);
    if request.version != Some(1) || fields.all("host").count() != 1 {
        return Err(refused(
            400,
            "this is not a request of HTTP/1.1 to one host",
        ));
    }
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let known = |verb: &&str| ["exec", "attach", "portforward"].contains(verb);
    let found = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let Some((verb, token)) = found.filter(|(verb, _)| known(verb)) else {
        return Err(refused(404, "there is no such page"));
    };
    if !matches!(request.method, Some("GET" | "POST")) {
        return Err(refused(405, "only GET and POST are possible"));
    }
    let body = fields.all("content-length").any(|length| length != "0");
    if body || fields.all("transfer-encoding").next().is_some() {
        return Err(refused(400, "a request to upgrade has no body"));
    }
    let upgrade = upgrade(&fields)?;
    let protocols = match upgrade {
        Upgrade::Spdy => "x-stream-protocol-version",
        Upgrade::WebSocket => "sec-websocket-protocol",
    };
    Ok(Head {
        verb: verb.to_owned(),
        token: token.to_owned(),
        upgrade,
        protocols: fields.list(protocols).map(str::to_owned).collect(),
        key: websocket_key(upgrade, &fields)?,
    })
}

/// What is asked for: exactly one thing.
fn upgrade(fields: &Fields<'_>) -> Result<Upgrade, Refused> {
    let connection = fields
        .list("connection")
        .any(|word| word.eq_ignore_ascii_case("upgrade"));
    let mut words = fields.list("upgrade");
    let (Some(word), None, true) = (words.next(), words.next(), connection) else {
        return Err(refused(
            400,
            "this page needs one upgrade, to SPDY/3.1 or to websocket",
        ));
    };
    if word.eq_ignore_ascii_case("SPDY/3.1") {
        Ok(Upgrade::Spdy)
    } else if word.eq_ignore_ascii_case("websocket") {
        Ok(Upgrade::WebSocket)
    } else {
        Err(refused(
            400,
            "this page is served by SPDY/3.1 or websocket only",
        ))
    }
}

/// The key of the handshake (RFC 6455, 4.2.1).
fn websocket_key(upgrade: Upgrade, fields: &Fields<'_>) -> Result<String, Refused> {
    if upgrade == Upgrade::Spdy {
        return Ok(String::new());
    }
    let (mut versions, mut keys) = (
        fields.all("sec-websocket-version"),
        fields.all("sec-websocket-key"),
    );
    if (versions.next(), versions.next()) != (Some("13"), None) {
        return Err(refused(426, "only version 13 of WebSocket is served"));
    }
    match (keys.next(), keys.next()) {
        (Some(key), None) if key.len() == 24 => Ok(key.to_owned()),
        _ => Err(refused(400, "a WebSocket needs one key of 16 bytes")),
    }
}

struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    /// Values of a field, as they are.
    fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let named = self
            .0
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| {
            std::str::from_utf8(field.value)
                .unwrap_or("\u{fffd}")
                .trim()
        })
    }

    /// Words of a field that is a list.
    fn list(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let words = self.all(name).flat_map(|value| value.split(','));
        words.map(str::trim).filter(|word| !word.is_empty())
    }
}

/// An answer that ends the connection.
pub(crate) fn error(refused: &Refused, fields: &str) -> String {
    let reason = match refused.status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        426 => "Upgrade Required",
        503 => "Service Unavailable",
        431 => "Request Header Fields Too Large",
        _ => "Error",
    };
    let Refused { status, why } = refused;
    let length = why.len() + 1;
    let fields = match status {
        405 => "Allow: GET, POST\r\n",
        426 => "Sec-WebSocket-Version: 13\r\n",
        _ => fields,
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         X-Content-Type-Options: nosniff\r\nContent-Length: {length}\r\n{fields}\r\n{why}\n"
    )
}

/// The answer that changes the protocol.
pub(crate) fn switch(upgrade: &str, fields: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n{fields}\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(first: &str, fields: &[&str]) -> Result<Option<(Head, usize)>, Refused> {
        let text = format!("{first} HTTP/1.1\r\n{}\r\n\r\n", fields.join("\r\n"));
        parse(text.as_bytes())
    }

    const SPDY: &[&str] = &[
        "Host: node:10250",
        "Connection: Upgrade",
        "Upgrade: SPDY/3.1",
    ];

    #[test]
    fn a_client_of_kubernetes() {
        let fields = [
            SPDY,
            &[
                "Content-Length: 0",
                "X-Stream-Protocol-Version: v4.channel.k8s.io",
            ],
            &["X-Stream-Protocol-Version: v3.channel.k8s.io, channel.k8s.io"],
        ];
        let (head, _) = request("POST /exec/abc?x=y", &fields.concat())
            .unwrap()
            .unwrap();
        assert_eq!((head.verb.as_str(), head.token.as_str()), ("exec", "abc"));
        assert_eq!(head.upgrade, Upgrade::Spdy);
        assert_eq!(
            head.protocols,
            ["v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"]
        );
    }

    #[test]
    fn a_web_socket() {
        let fields = [
            "Host: x",
            "connection: keep-alive, upgrade",
            "upgrade: WebSocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol: v5.channel.k8s.io,v4.channel.k8s.io",
            "Origin: https://elsewhere.example",
        ];
        let (head, _) = request("GET /attach/t", &fields).unwrap().unwrap();
        assert_eq!(head.upgrade, Upgrade::WebSocket);
        assert_eq!(head.protocols, ["v5.channel.k8s.io", "v4.channel.k8s.io"]);
        for without in [3, 4] {
            let mut fields = fields.to_vec();
            fields.remove(without);
            assert!(request("GET /attach/t", &fields).is_err());
        }
    }

    #[test]
    fn incomplete_and_endless_heads() {
        assert_eq!(parse(b"GET /exec/a HTTP/1.1\r\nHost: x\r\n"), Ok(None));
        assert_eq!(parse(b""), Ok(None));
        let endless = format!("GET /exec/a HTTP/1.1\r\nA: {}", "x".repeat(limits::HEAD));
        assert_eq!(parse(endless.as_bytes()).unwrap_err().status, 431);
        let many = vec!["A: b"; limits::HEAD_FIELDS + 1];
        assert_eq!(request("GET /exec/a", &many).unwrap_err().status, 431);
    }

    #[test]
    fn refused_requests() {
        let with = |more: &[&'static str]| [SPDY, more].concat();
        let table: &[(&str, Vec<&str>, u16)] = &[
            ("GET /", with(&[]), 404),
            ("GET /exec", with(&[]), 404),
            ("GET /metrics/x", with(&[]), 404),
            ("GET http://x/exec/a", with(&[]), 404),
            ("PUT /exec/a", with(&[]), 405),
            ("POST /exec/a", with(&["Host: other"]), 400),
            ("POST /exec/a", SPDY[1..].to_vec(), 400),
            ("POST /exec/a", SPDY[..2].to_vec(), 400),
            ("POST /exec/a", vec![SPDY[0], SPDY[2]], 400),
            ("POST /exec/a", vec![SPDY[0], SPDY[1], "Upgrade: h2c"], 400),
        ];
        for (first, fields, status) in table {
            let answer = request(first, fields);
            assert_eq!(answer.unwrap_err().status, *status, "{first} {fields:?}");
        }
        assert_eq!(parse(b"\x16\x03\x01\x02\x00").unwrap_err().status, 400);
        let old = b"GET /exec/a HTTP/1.0\r\nHost: x\r\n\r\n";
        assert_eq!(parse(old).unwrap_err().status, 400);
    }

    #[test]
    fn request_smuggling_by_two_upgrades_or_a_body() {
        for more in [
            "Upgrade: websocket",
            "Content-Length: 5",
            "Content-Length: +0",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: identity",
        ] {
            let answer = request("POST /exec/a", &[SPDY, &[more]].concat());
            assert_eq!(answer.unwrap_err().status, 400, "{more}");
        }
        let both = [
            "Host: x",
            "Connection: Upgrade",
            "Upgrade: SPDY/3.1, websocket",
        ];
        assert_eq!(request("GET /exec/a", &both).unwrap_err().status, 400);
        let folded = b"GET /exec/a HTTP/1.1\r\nHost: x\r\nUpgrade: SPDY/3.1\r\n websocket\r\n\r\n";
        assert_eq!(parse(folded).unwrap_err().status, 400);
    }

    #[test]
    fn errors_end_the_connection() {
        let text = error(&refused(404, "no"), "");
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\nConnection: close\r\n"));
        assert!(text.ends_with("Content-Length: 3\r\n\r\nno\n"));
    }
}
