//! Texts made of fields, as mail has them: `Name: value`, more lines of a value indented, an empty line between
//! paragraphs.

/// The fields of a paragraph that were asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<(String, String)>);

/// No value is kept longer: texts that describe a package go on for pages.
const VALUE_CHARACTERS: usize = 4000;

impl Fields {
    /// A value; empty when there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// The values of a field that may be there more than once.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// The paragraphs of a text, with those of their fields that are in `wanted`. Lines of a value are separated by
/// newlines.
pub(super) fn paragraphs<'a>(text: &'a str, wanted: &'a [&'a str]) -> impl Iterator<Item = Fields> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        loop {
            let mut fields = Fields::default();
            let mut lines_of_it = 0;
            let mut open = false;
            for line in lines.by_ref() {
                if line.trim_end().is_empty() {
                    break;
                }
                lines_of_it += 1;
                if line.starts_with([' ', '\t']) {
                    if let Some((_, value)) = fields.0.last_mut().filter(|_| open)
                        && value.len() < VALUE_CHARACTERS
                    {
                        value.push('\n');
                        value.push_str(&shortened(line.trim()));
                    }
                    continue;
                }
                let Some((name, value)) = line.split_once(':') else { continue };
                open = wanted.iter().any(|known| known.eq_ignore_ascii_case(name));
                if open {
                    fields.0.push((name.to_owned(), shortened(value.trim())));
                }
            }
            if lines_of_it == 0 {
                // The end, or more than one empty line.
                match lines.clone().next() {
                    None => return None,
                    Some(_) => continue,
                }
            }
            return Some(fields);
        }
    })
}

/// The first words of a text.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(VALUE_CHARACTERS).collect()
}

/// `Person: NAME (MAIL)` or `Organization: ...` of a `NAME <MAIL>`.
pub(super) fn party(text: &str) -> String {
    // What a group calls itself: people are called otherwise.
    const GROUPS: [&str; 12] = [
        "team",
        "developer",
        "group",
        "maintainer",
        "project",
        "list",
        "inc",
        "packag",
        "foundation",
        "authors",
        "community",
        "linux",
    ];
    let text = text.lines().next().unwrap_or_default().trim();
    let (name, mail) = match text.split_once('<') {
        Some((name, mail)) => {
            (name.trim().trim_matches('"'), mail.split('>').next().unwrap_or_default().trim())
        }
        None => (text, ""),
    };
    let name = if name.is_empty() { mail } else { name };
    if name.is_empty() {
        return String::new();
    }
    let lower = name.to_lowercase();
    let kind = if GROUPS.iter().any(|word| lower.contains(word)) { "Organization" } else { "Person" };
    match mail {
        "" => format!("{kind}: {name}"),
        mail => format!("{kind}: {name} ({mail})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_read_with_what_is_wanted_of_them() {
        let text = "\n\nA: 1\nB: x\n y\nC: no\n no\n\n \nnonsense\nA: 2\n z\nA: 3";
        let all: Vec<Fields> = paragraphs(text, &["a", "B"]).collect();
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            all,
            [
                Fields(vec![field("A", "1"), field("B", "x\ny")]),
                Fields(vec![field("A", "2\nz"), field("A", "3")]),
            ]
        );
        assert_eq!((all[0].get("b"), all[0].get("C"), all[1].all("a").count()), ("x\ny", "", 2));
        assert_eq!(paragraphs("", &["A"]).count(), 0);
        let long = format!("A: {}\n {}\n", "x".repeat(10_000), "y".repeat(10_000));
        let shortest = paragraphs(&long, &["A"]).next().unwrap();
        assert!(shortest.get("A").len() <= 2 * VALUE_CHARACTERS + 1);
    }

    #[test]
    fn people_and_groups_are_told_apart() {
        assert_eq!(party("Ada L <ada@x.org>"), "Person: Ada L (ada@x.org)");
        assert_eq!(party("\"APT Team\" <apt@x.org>"), "Organization: APT Team (apt@x.org)");
        assert_eq!(party("<a@b>"), "Person: a@b (a@b)");
        assert_eq!(
            (party("Fedora Project"), party(" <> ")),
            ("Organization: Fedora Project".into(), String::new())
        );
    }
}
