//! Scripts to commands. One byte is looked at a time; a script that leaves the grammar is [`Unsupported`]
//! as a whole, since where a construct ends that is not understood cannot be known either.

use super::{Command, List, Otherwise, Part, Step, Unsupported, When, Word, is_name};

/// How deep `if`, groups and expansions may nest.
const MAX_DEPTH: u32 = 40;

/// Reads a script.
pub fn parse(text: &[u8]) -> Result<List, Unsupported> {
    let mut parser = Parser { text, at: 0, line: 1, depth: 0 };
    if text.contains(&0) {
        return Err(parser.unsupported("a NUL byte"));
    }
    let list = parser.list(&[])?;
    if parser.peek().is_some() {
        return Err(parser.unsupported("a misplaced word or operator"));
    }
    Ok(list)
}

/// Reads `text` as if it stood in double quotes; a double quote in it is one.
pub fn parse_quoted(text: &[u8]) -> Result<Word, Unsupported> {
    let mut parser = Parser { text, at: 0, line: 1, depth: 0 };
    if text.contains(&0) {
        return Err(parser.unsupported("a NUL byte"));
    }
    let mut word = Word::new();
    parser.quoted_until(&mut word, End::Text)?;
    Ok(word)
}

/// Where double-quoted text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With the script.
    Text,
    /// At a double quote.
    Quote,
    /// At the brace of the expansion that it stands in.
    Brace,
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    line: u32,
    depth: u32,
}

impl Parser<'_> {
    fn unsupported(&self, what: &'static str) -> Unsupported {
        Unsupported { line: self.line, what }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn ahead(&self, text: &[u8]) -> bool {
        self.text.get(self.at..).is_some_and(|left| left.starts_with(text))
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        self.line += u32::from(byte == b'\n');
        Some(byte)
    }

    fn take(&mut self, text: &[u8]) -> bool {
        let found = self.ahead(text);
        if found {
            for _ in text {
                self.next();
            }
        }
        found
    }

    fn deeper<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, Unsupported>,
    ) -> Result<T, Unsupported> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.unsupported("deep nesting"));
        }
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Blanks, continued lines, and a comment.
    fn skip_blanks(&mut self) {
        loop {
            match self.peek() {
                Some(b' ' | b'\t') => self.at += 1,
                Some(b'\\') if self.ahead(b"\\\n") => {
                    self.take(b"\\\n");
                }
                Some(b'#') => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    /// Commands up to the end or one of the `ends`, which is left standing.
    fn list(&mut self, ends: &[&[u8]]) -> Result<List, Unsupported> {
        let mut list = List::new();
        let mut when = When::Always;
        loop {
            self.skip_blanks();
            while self.peek() == Some(b'\n') {
                self.next();
                self.skip_blanks();
            }
            if self.peek().is_none() || ends.iter().any(|end| self.keyword(end)) {
                if when != When::Always {
                    return Err(self.unsupported("an operator without a command"));
                }
                return Ok(list);
            }
            let not = self.keyword(b"!");
            if not {
                self.take(b"!");
                self.skip_blanks();
            }
            let command = self.deeper(Self::command)?;
            list.push(Step { when, not, command });
            self.skip_blanks();
            when = match self.peek() {
                None | Some(b'\n') => When::Always,
                Some(b';') if self.ahead(b";;") => return Err(self.unsupported("a case")),
                Some(b';') => {
                    self.next();
                    When::Always
                }
                Some(b'&') if self.take(b"&&") => When::Succeeded,
                Some(b'|') if self.take(b"||") => When::Failed,
                Some(b'|') => return Err(self.unsupported("a pipe")),
                Some(b'&') => return Err(self.unsupported("a background job")),
                Some(b'<' | b'>') => return Err(self.unsupported("a redirection")),
                Some(b'(') => return Err(self.unsupported("a function")),
                // `fi` or `}` directly followed by something, or a stray parenthesis.
                Some(_) => return Err(self.unsupported("a misplaced word or operator")),
            };
        }
    }

    /// Whether the word here is exactly this reserved word.
    fn keyword(&self, word: &[u8]) -> bool {
        let after = self.text.get(self.at + word.len());
        self.ahead(word) && after.is_none_or(|byte| is_break(*byte))
    }

    fn command(&mut self) -> Result<Command, Unsupported> {
        const OTHERS: [&[u8]; 13] = [
            b"case",
            b"do",
            b"done",
            b"elif",
            b"else",
            b"esac",
            b"fi",
            b"for",
            b"function",
            b"then",
            b"until",
            b"while",
            b"}",
        ];
        if self.take_keyword(b"if") {
            return self.if_command();
        }
        if self.take_keyword(b"{") {
            let list = self.list(&[b"}"])?;
            if !self.take_keyword(b"}") || list.is_empty() {
                return Err(self.unsupported("a group without an end"));
            }
            return Ok(Command::Group(list));
        }
        if OTHERS.iter().any(|word| self.keyword(word)) || self.keyword(b"!") || self.keyword(b"[[") {
            return Err(self.unsupported("a loop, case or function"));
        }
        if self.peek() == Some(b'(') {
            return Err(self.unsupported("a subshell"));
        }
        self.simple()
    }

    fn take_keyword(&mut self, word: &[u8]) -> bool {
        self.keyword(word) && self.take(word)
    }

    fn if_command(&mut self) -> Result<Command, Unsupported> {
        let mut arms = Vec::new();
        loop {
            let condition = self.list(&[b"then"])?;
            if !self.take_keyword(b"then") {
                return Err(self.unsupported("an if without then"));
            }
            let body = self.list(&[b"elif", b"else", b"fi"])?;
            if condition.is_empty() || body.is_empty() {
                return Err(self.unsupported("an empty if"));
            }
            arms.push((condition, body));
            if !self.take_keyword(b"elif") {
                break;
            }
        }
        let mut otherwise = List::new();
        if self.take_keyword(b"else") {
            otherwise = self.list(&[b"fi"])?;
            if otherwise.is_empty() {
                return Err(self.unsupported("an empty else"));
            }
        }
        if !self.take_keyword(b"fi") {
            return Err(self.unsupported("an if without fi"));
        }
        Ok(Command::If(arms, otherwise))
    }

    fn simple(&mut self) -> Result<Command, Unsupported> {
        let line = self.line;
        let (mut assignments, mut words) = (Vec::new(), Vec::new());
        loop {
            self.skip_blanks();
            match self.peek() {
                None | Some(b'\n' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')') => break,
                Some(_) => {}
            }
            if words.is_empty()
                && let Some(name) = self.assigned_name()
            {
                // An array, or an append of other shells.
                if self.peek() == Some(b'(') {
                    return Err(self.unsupported("an array"));
                }
                assignments.push((name, self.word(true)?));
                continue;
            }
            words.push(self.word(false)?);
        }
        if assignments.is_empty() && words.is_empty() {
            return Err(self.unsupported("an empty command"));
        }
        Ok(Command::Simple { line, assignments, words })
    }

    /// Takes `NAME=` if it stands here.
    fn assigned_name(&mut self) -> Option<Vec<u8>> {
        let left = self.text.get(self.at..)?;
        let end = left.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_')?;
        let name = left.get(..end).filter(|name| is_name(name))?.to_vec();
        if left.get(end) != Some(&b'=') {
            return None;
        }
        self.at += end + 1;
        Some(name)
    }

    /// A word, unquoted at its start. In the value of an assignment a tilde after a colon counts, too.
    fn word(&mut self, assigned: bool) -> Result<Word, Unsupported> {
        let mut word = Word::new();
        let mut tilde = true;
        while let Some(byte) = self.peek() {
            let (line, start) = (self.line, std::mem::take(&mut tilde));
            match byte {
                _ if is_break(byte) => break,
                b'(' | b')' => return Err(self.unsupported("a parenthesis")),
                b'~' if start => {
                    self.at += 1;
                    word.push(Part::Foreign { line, what: "a tilde" });
                }
                b':' | b'=' => {
                    self.at += 1;
                    // In `export PATH=~/bin` shells differ; only a shell can say.
                    tilde = assigned || byte == b'=';
                    push_text(&mut word, &[byte], false);
                }
                _ => self.unquoted(&mut word, byte)?,
            }
        }
        Ok(word)
    }

    /// One element of unquoted text that begins with `byte`.
    fn unquoted(&mut self, word: &mut Word, byte: u8) -> Result<(), Unsupported> {
        match byte {
            b'\'' => {
                self.at += 1;
                self.single_quoted(word)
            }
            b'"' => {
                self.at += 1;
                push_text(word, b"", true);
                self.quoted_until(word, End::Quote)
            }
            b'\\' => {
                self.at += 1;
                match self.next() {
                    Some(b'\n') => {}
                    Some(byte) => push_text(word, &[byte], true),
                    None => return Err(self.unsupported("a backslash at the end")),
                }
                Ok(())
            }
            b'$' | b'`' => self.expansion(word, false),
            _ => {
                self.next();
                push_text(word, &[byte], false);
                Ok(())
            }
        }
    }

    fn single_quoted(&mut self, word: &mut Word) -> Result<(), Unsupported> {
        let mut text = Vec::new();
        loop {
            match self.next() {
                Some(b'\'') => break,
                Some(byte) => text.push(byte),
                None => return Err(self.unsupported("a quote without an end")),
            }
        }
        push_text(word, &text, true);
        Ok(())
    }

    /// Double-quoted text up to `end`, which is taken.
    fn quoted_until(&mut self, word: &mut Word, end: End) -> Result<(), Unsupported> {
        loop {
            let Some(byte) = self.peek() else {
                return if end == End::Text {
                    Ok(())
                } else {
                    Err(self.unsupported("a quote without an end"))
                };
            };
            match byte {
                b'"' if end == End::Quote => {
                    self.at += 1;
                    return Ok(());
                }
                b'"' if end == End::Brace => {
                    // "${A:-"b"}": the inner quotes quote what is quoted already.
                    self.at += 1;
                    self.quoted_until(word, End::Quote)?;
                }
                b'}' if end == End::Brace => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.next();
                    match self.peek() {
                        Some(b'\n') => {
                            self.next();
                        }
                        Some(next @ (b'$' | b'`' | b'"' | b'\\')) => {
                            self.at += 1;
                            push_text(word, &[next], true);
                        }
                        Some(b'}') if end == End::Brace => {
                            self.at += 1;
                            push_text(word, b"}", true);
                        }
                        _ => push_text(word, b"\\", true),
                    }
                }
                b'$' | b'`' => self.expansion(word, true)?,
                _ => {
                    self.next();
                    push_text(word, &[byte], true);
                }
            }
        }
    }

    /// What begins with a dollar sign or a backquote.
    fn expansion(&mut self, word: &mut Word, quoted: bool) -> Result<(), Unsupported> {
        let line = self.line;
        if self.peek() == Some(b'`') {
            return Err(self.unsupported("a command substitution"));
        }
        self.at += 1;
        match self.peek() {
            Some(b'{') => {
                self.at += 1;
                let part = self.deeper(|parser| parser.braced(quoted))?;
                word.push(part);
            }
            Some(b'(') => return Err(self.unsupported("a command substitution")),
            Some(b'0'..=b'9' | b'@' | b'*' | b'#' | b'?' | b'$' | b'!' | b'-') => {
                self.at += 1;
                word.push(Part::Foreign { line, what: "a special parameter" });
            }
            Some(b'\'') if !quoted => return Err(self.unsupported("a quote of other shells")),
            Some(b'"') if !quoted => return Err(self.unsupported("a quote of other shells")),
            Some(b'[') => return Err(self.unsupported("an arithmetic expansion of other shells")),
            // "$\<newline>NAME" is "$NAME"; nobody writes it.
            Some(b'\\') if self.ahead(b"\\\n") => return Err(self.unsupported("a broken name")),
            _ => {
                let name = self.name();
                if name.is_empty() {
                    push_text(word, b"$", quoted);
                } else if self.ahead(b"\\\n") {
                    return Err(self.unsupported("a broken name"));
                } else {
                    word.push(Part::Value { name, otherwise: None, quoted });
                }
            }
        }
        Ok(())
    }

    fn name(&mut self) -> Vec<u8> {
        let start = self.at;
        while self.peek().is_some_and(|byte| {
            byte == b'_' || byte.is_ascii_alphabetic() || (self.at > start && byte.is_ascii_digit())
        }) {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default().to_vec()
    }

    /// The rest of `${`.
    fn braced(&mut self, quoted: bool) -> Result<Part, Unsupported> {
        let line = self.line;
        let name = self.name();
        if name.is_empty() {
            // ${1}, ${#X}, ${!X}: simple enough to step over.
            let special = self.next();
            if matches!(special, Some(b'0'..=b'9' | b'@' | b'*' | b'?')) && self.take(b"}") {
                return Ok(Part::Foreign { line, what: "a special parameter" });
            }
            return Err(self.unsupported("an expansion of this kind"));
        }
        if self.take(b"}") {
            return Ok(Part::Value { name, otherwise: None, quoted });
        }
        let empty_too = self.take(b":");
        let Some(operator @ (b'-' | b'=' | b'+')) = self.peek() else {
            return Err(self.unsupported("an expansion of this kind"));
        };
        self.at += 1;
        let mut word = Word::new();
        if quoted {
            self.quoted_until(&mut word, End::Brace)?;
        } else {
            if self.peek() == Some(b'~') {
                return Err(self.unsupported("a tilde"));
            }
            loop {
                match self.peek() {
                    None => return Err(self.unsupported("an expansion without an end")),
                    Some(b'}') => break,
                    Some(byte) => self.unquoted(&mut word, byte)?,
                }
            }
            self.at += 1;
        }
        Ok(Part::Value { name, otherwise: Some(Otherwise { operator, empty_too, word }), quoted })
    }
}

/// Whether an unquoted word ends before this byte.
fn is_break(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>')
}

/// Adds text, joined to text of the same kind before it.
fn push_text(word: &mut Word, more: &[u8], more_quoted: bool) {
    match word.last_mut() {
        Some(Part::Text { text, quoted }) if *quoted == more_quoted => text.extend_from_slice(more),
        _ => word.push(Part::Text { text: more.to_vec(), quoted: more_quoted }),
    }
}
