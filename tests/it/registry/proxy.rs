//! A proxy before a registry that does what bad networks and bad registries do, and writes down what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What goes wrong with a request whose first line has this in it, and how often.
#[derive(Clone)]
pub struct Fault {
    pub when: &'static str,
    pub times: u32,
    pub what: What,
}

#[derive(Clone)]
pub enum What {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Another status, with these headers.
    Status(u16, &'static str),
    /// One byte of the body is another.
    Lie,
    /// Half of a body that says it is whole.
    Half,
    /// The connection ends after so many bytes of what is sent.
    CutUpload(u64),
    /// Nothing.
    Pass,
    /// It takes all that is sent and hands on nothing of it, and the connection ends.
    Swallow,
    /// It does what it is asked, and the answer is lost.
    Deaf,
    /// It waits until it is asked for something with these words in it, too.
    Until(&'static str),
    /// It asks the server behind it by that one's own name, whose answers then lead there.
    Elsewhere,
}

/// What it was asked: first lines, with the range where there was one, with the form that tokens are asked for by, and
/// with a word where somebody said who he is.
pub type Log = Arc<Mutex<Vec<String>>>;

/// Tokens that are given out and taken.
#[derive(Clone, Default)]
pub struct Tokens {
    /// `user:password` in base64; empty for anybody.
    pub password: &'static str,
    /// So many tokens are not taken when they come back.
    pub expired: u32,
    /// Each is taken so often; 0 for always.
    pub uses: u32,
    /// What stands for name and password in a form.
    pub identity: &'static str,
}

struct State {
    upstream: String,
    address: String,
    faults: Mutex<Vec<Fault>>,
    tokens: Option<Tokens>,
    given: Mutex<u32>,
    used: Mutex<u32>,
    secure: bool,
    log: Log,
}

/// A started proxy. Its threads wait for connections until the test's process ends.
pub struct Proxy {
    pub address: String,
    state: Arc<State>,
}

impl Proxy {
    pub fn start(upstream: &str, faults: Vec<Fault>, tokens: Option<Tokens>) -> Self {
        Self::started(upstream, faults, tokens, None)
    }

    /// One that speaks TLS, as `localhost`.
    pub fn secure(upstream: &str, tls: ServerConfig) -> Self {
        Self::started(upstream, vec![], None, Some(Arc::new(tls)))
    }

    fn started(
        upstream: &str,
        faults: Vec<Fault>,
        tokens: Option<Tokens>,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let address = if tls.is_some() { address.replace("127.0.0.1", "localhost") } else { address };
        let state = Arc::new(State {
            upstream: upstream.to_owned(),
            address: address.clone(),
            faults: Mutex::new(faults),
            tokens,
            given: Mutex::new(0),
            used: Mutex::new(0),
            secure: tls.is_some(),
            log: Log::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                // Whoever went away is none of the proxy's business.
                std::thread::spawn(move || match tls {
                    None => state.serve(stream).ok(),
                    Some(tls) => {
                        // What begins so is TLS; what does not is answered as servers do.
                        let mut first = [0];
                        if stream.peek(&mut first).is_ok() && first != [0x16] {
                            let mut plain = stream;
                            let text = "HTTP/1.1 400 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                            return plain.write_all(text.as_bytes()).ok();
                        }
                        let mut stream = StreamOwned::new(ServerConnection::new(tls).expect("TLS"), stream);
                        state.serve(&mut stream).ok()?;
                        stream.conn.send_close_notify();
                        stream.flush().ok()
                    }
                });
            }
        });
        Self { address, state }
    }

    /// How often something with these words was asked for.
    pub fn count(&self, words: &str) -> usize {
        self.log().iter().filter(|line| line.contains(words)).count()
    }

    pub fn log(&self) -> Vec<String> {
        self.state.log.lock().unwrap().clone()
    }

    /// Forgets what it was asked.
    pub fn clear(&self) {
        self.state.log.lock().unwrap().clear();
    }

    /// From now on this goes wrong, and nothing else.
    pub fn faults(&self, faults: Vec<Fault>) {
        *self.state.faults.lock().unwrap() = faults;
    }
}

/// The lines of a head; none when nobody asks.
fn read_head(reader: &mut impl BufRead) -> std::io::Result<Vec<String>> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(Vec::new());
        }
        if line.trim().is_empty() {
            return Ok(head);
        }
        head.push(line.trim_end().to_owned());
    }
}

/// Does to an answer what goes wrong with it.
fn spoil(answer: &mut Vec<u8>, fault: Option<&What>) {
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let middle = body + (answer.len() - body) / 2;
    match fault {
        Some(What::Cut(after)) => answer.truncate(body + after),
        Some(What::Half) => answer.truncate(middle),
        Some(What::Lie) if body < answer.len() => answer[middle] ^= 1,
        _ => {}
    }
}

impl State {
    fn serve(&self, stream: impl Read + Write) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let head = read_head(&mut reader)?;
        if head.is_empty() {
            return Ok(());
        }
        let value = |name: &str| super::server::header(&head[1..], name);
        let range = value("range").or_else(|| value("content-range"));
        let mut line = format!("{}{}", head[0], range.map_or_else(String::new, |range| format!(" {range}")));
        let mut length = value("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut form = String::new();
        if head[0].starts_with("POST /token") {
            (&mut reader).take(length).read_to_string(&mut form)?;
            length = 0;
            line += &format!(" {form}");
        }
        if value("authorization").is_some() {
            line += " authorized";
        }
        self.log.lock().unwrap().push(line);
        if let Some(tokens) = &self.tokens
            && let Some(answer) =
                self.answer_token((&head[0], &form), value("authorization").as_deref(), tokens)
        {
            std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
            return reader.get_mut().write_all(answer.as_bytes());
        }
        let fault = self.fault(&head[0]);
        if let Some(What::Status(status, headers)) = fault {
            let text =
                format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n");
            return reader.get_mut().write_all(text.as_bytes());
        }
        if let Some(What::Until(words)) = fault
            && !self.waits_for(words)
        {
            return Ok(());
        }
        if let Some(What::Swallow) = fault {
            std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
            return Ok(());
        }
        let kept = head[1..].iter().filter(|line| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            !["connection", "host", "authorization"].contains(&name.as_str())
        });
        // Under the proxy's name, so that the registry sends who uploads here, too.
        let host = if let Some(What::Elsewhere) = fault { &self.upstream } else { &self.address };
        let mut forwarded = format!("{}\r\nHost: {host}\r\nConnection: close\r\n", head[0]);
        for line in kept {
            forwarded += &format!("{line}\r\n");
        }
        let mut upstream = TcpStream::connect(&self.upstream)?;
        upstream.write_all(format!("{forwarded}\r\n").as_bytes())?;
        let sent = if let Some(What::CutUpload(after)) = fault { after.min(length) } else { length };
        std::io::copy(&mut (&mut reader).take(sent), &mut upstream)?;
        if sent < length {
            return Ok(());
        }
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer)?;
        if let Some(What::Deaf) = fault {
            return Ok(());
        }
        spoil(&mut answer, fault.as_ref());
        reader.get_mut().write_all(&answer)
    }

    /// Waits until something with these words is asked for; false when that takes long.
    fn waits_for(&self, words: &str) -> bool {
        let limit = Instant::now() + Duration::from_secs(30);
        while !self.log.lock().unwrap().iter().any(|line| line.contains(words)) {
            if Instant::now() > limit {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// The fault for a request, used up by one.
    fn fault(&self, line: &str) -> Option<What> {
        let mut faults = self.faults.lock().unwrap();
        let found = faults.iter_mut().find(|fault| fault.times > 0 && line.contains(fault.when))?;
        found.times -= 1;
        Some(found.what.clone())
    }

    /// What is said to who asks for a token, or has none that counts.
    fn answer_token(
        &self,
        (line, form): (&str, &str),
        authorization: Option<&str>,
        tokens: &Tokens,
    ) -> Option<String> {
        let mut given = self.given.lock().unwrap();
        if line.starts_with("POST /token") {
            let wanted = [
                "grant_type=refresh_token".to_owned(),
                format!("refresh_token={}", tokens.identity),
                "service=test".to_owned(),
            ];
            if tokens.identity.is_empty() || !wanted.iter().all(|one| form.split('&').any(|had| had == one)) {
                return Some("HTTP/1.1 400 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned());
            }
        } else if line.contains(" /token") {
            let named =
                tokens.password.is_empty() || authorization == Some(&format!("Basic {}", tokens.password));
            if !named || !tokens.identity.is_empty() {
                return Some("HTTP/1.1 401 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned());
            }
        }
        if line.contains(" /token") {
            *given += 1;
            *self.used.lock().unwrap() = 0;
            // OAuth2 has another name for it.
            let name = if form.is_empty() { "token" } else { "access_token" };
            let body = format!(r#"{{"{name}":"t{given}"}}"#);
            let length = body.len();
            return Some(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            ));
        }
        let number = authorization.and_then(|text| text.strip_prefix("Bearer t")?.parse::<u32>().ok());
        let mut used = self.used.lock().unwrap();
        let fresh = tokens.uses == 0 || *used < tokens.uses;
        if fresh && number.is_some_and(|number| number > tokens.expired && number <= *given) {
            *used += 1;
            return None;
        }
        let realm = format!("http{}://{}/token", if self.secure { "s" } else { "" }, self.address);
        Some(format!(
            "HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"test\"\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        ))
    }
}
