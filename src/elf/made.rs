//! Small ELF files made by hand, for tests: a dynamic segment and what it points to, and nothing to run.

use std::path::Path;

/// What a made library says of itself.
#[derive(Debug, Clone, Default)]
pub struct Made<'a> {
    /// `e_machine`; 0 stands for x86-64.
    pub machine: u16,
    /// 32 bits.
    pub narrow: bool,
    /// `DT_SONAME`; empty for none.
    pub soname: &'a str,
    /// `DT_NEEDED`.
    pub needed: &'a [&'a str],
    /// `DT_RPATH`; empty for none.
    pub rpath: &'a str,
    /// `DT_RUNPATH`; empty for none.
    pub runpath: &'a str,
    /// `PT_INTERP`; empty for none.
    pub interpreter: &'a str,
    /// Library and version, one after the other of one library.
    pub requires: &'a [(&'a str, &'a [&'a str])],
    /// Versions.
    pub defines: &'a [&'a str],
    /// Symbols that it has.
    pub symbols: &'a [&'a str],
    /// Symbols that it needs.
    pub undefined: &'a [&'a str],
    /// Bytes at the end that nothing points to.
    pub text: &'a str,
}

struct Strings(Vec<u8>);

impl Strings {
    fn add(&mut self, text: &str) -> u64 {
        let at = self.0.len() as u64;
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        at
    }
}

impl Made<'_> {
    /// Writes it to a file, whose directories are made.
    pub fn write(&self, path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, self.bytes()).unwrap();
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let wide = !self.narrow;
        let word = |value: u64| match wide {
            true => value.to_le_bytes().to_vec(),
            false => (value as u32).to_le_bytes().to_vec(),
        };
        let (head, header) = if wide { (64, 56) } else { (52, 32) };
        let start = head + 3 * header;
        let mut strings = Strings(vec![0]);
        let needs = self.needs(&mut strings);
        let has = self.has(&mut strings);
        let (symbols, count) = self.symbol_table(&mut strings);
        let hash = [1_u32, count].map(u32::to_le_bytes).concat();
        let interpreter = strings.add(self.interpreter);
        let mut entries: Vec<(u64, u64)> = self.needed.iter().map(|name| (1, strings.add(name))).collect();
        for (tag, text) in [(14, self.soname), (15, self.rpath), (29, self.runpath)] {
            if !text.is_empty() {
                entries.push((tag, strings.add(text)));
            }
        }
        // Addresses are offsets in the file.
        let mut at = start as u64;
        let mut body = Vec::new();
        let mut put = |bytes: &[u8]| {
            let place = at;
            body.extend_from_slice(bytes);
            at += bytes.len() as u64;
            place
        };
        entries.push((0x6fff_fffe, put(&needs)));
        entries.push((0x6fff_ffff, self.requires.len() as u64));
        entries.push((0x6fff_fffc, put(&has)));
        entries.push((0x6fff_fffd, self.defines.len() as u64));
        entries.push((6, put(&symbols)));
        entries.push((4, put(&hash)));
        let names = put(&strings.0);
        entries.push((5, names));
        entries.push((0, 0));
        let table: Vec<u8> =
            entries.iter().flat_map(|(tag, value)| [word(*tag), word(*value)].concat()).collect();
        let dynamic = put(&table);
        put(self.text.as_bytes());
        let end = start as u64 + body.len() as u64;
        let machine = if self.machine == 0 { 62 } else { self.machine };
        let mut file = b"\x7fELF".to_vec();
        file.extend([if wide { 2 } else { 1 }, 1, 1]);
        file.resize(16, 0);
        file.extend(3_u16.to_le_bytes());
        file.extend(machine.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        file.extend([word(0), word(head as u64), word(0)].concat());
        file.extend(0_u32.to_le_bytes());
        let headers = if self.interpreter.is_empty() { 2 } else { 3 };
        file.extend([head as u16, header as u16, headers, 0, 0, 0].map(u16::to_le_bytes).concat());
        let segments = [(1_u32, 0, end), (2, dynamic, table.len() as u64), (3, names + interpreter, 200)];
        for (kind, offset, length) in segments {
            file.extend(kind.to_le_bytes());
            if wide {
                file.extend([0; 4]);
            }
            file.extend([word(offset), word(offset), word(offset), word(length), word(length)].concat());
            file.extend(if wide { word(1) } else { [word(0), word(1)].concat() });
        }
        file.truncate(start);
        file.extend(body);
        file
    }

    fn needs(&self, strings: &mut Strings) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, (library, versions)) in self.requires.iter().enumerate() {
            let next = if index + 1 < self.requires.len() { 16 + 16 * versions.len() as u32 } else { 0 };
            out.extend(1_u16.to_le_bytes());
            out.extend((versions.len() as u16).to_le_bytes());
            out.extend([strings.add(library) as u32, 16, next].map(u32::to_le_bytes).concat());
            for (place, version) in versions.iter().enumerate() {
                let next = if place + 1 < versions.len() { 16 } else { 0 };
                out.extend([0_u32, 0, strings.add(version) as u32, next].map(u32::to_le_bytes).concat());
            }
        }
        out
    }

    fn has(&self, strings: &mut Strings) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, version) in self.defines.iter().enumerate() {
            let next = if index + 1 < self.defines.len() { 28_u32 } else { 0 };
            out.extend([1_u16, 0, index as u16 + 1, 1].map(u16::to_le_bytes).concat());
            out.extend([0_u32, 20, next, strings.add(version) as u32, 0].map(u32::to_le_bytes).concat());
        }
        out
    }

    fn symbol_table(&self, strings: &mut Strings) -> (Vec<u8>, u32) {
        let size = if self.narrow { 16 } else { 24 };
        let mut out = vec![0; size];
        let all =
            self.symbols.iter().map(|name| (name, 1_u16)).chain(self.undefined.iter().map(|name| (name, 0)));
        for (name, section) in all {
            let name = (strings.add(name) as u32).to_le_bytes();
            match self.narrow {
                false => out.extend([&name[..], &[0x12, 0], &section.to_le_bytes(), &[0; 16]].concat()),
                true => out.extend([&name[..], &[0; 8], &[0x12, 0], &section.to_le_bytes()].concat()),
            }
        }
        let count = out.len() / size;
        (out, count as u32)
    }
}
