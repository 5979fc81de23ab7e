// SPDX-License-Identifier: Apache-2.0
//! HTML that cannot be broken out of: what is written as it is is known when husk is compiled,
//! and all else is escaped. A contestant's version, a failure's words, an image's name are
//! anybody's.

use crate::bench::figure::{line, visible};

#[derive(Debug, Default)]
pub struct Markup(String);

impl Markup {
    /// Only what stands in this program's source.
    pub fn raw(&mut self, text: &'static str) -> &mut Self {
        self.0.push_str(text);
        self
    }

    /// Anybody's words, on one line.
    pub fn text(&mut self, text: &str) -> &mut Self {
        escape(&line(text), &mut self.0);
        self
    }

    /// The same, however long.
    pub fn whole(&mut self, text: &str) -> &mut Self {
        escape(&visible(text), &mut self.0);
        self
    }

    /// `<tag class="…">`.
    pub fn open(&mut self, tag: &'static str, class: &'static str) -> &mut Self {
        match class {
            "" => self.tag(tag, &[]),
            _ => self.tag(tag, &[("class", class)]),
        }
    }

    pub fn tag(&mut self, tag: &'static str, attributes: &[(&'static str, &str)]) -> &mut Self {
        self.raw("<").raw(tag);
        for (name, value) in attributes {
            self.raw(" ").raw(name).raw("=\"");
            escape(&line(value), &mut self.0);
            self.raw("\"");
        }
        self.raw(">")
    }

    pub fn close(&mut self, tag: &'static str) -> &mut Self {
        self.raw("</").raw(tag).raw(">")
    }

    /// `<tag class="…">text</tag>`.
    pub fn element(&mut self, tag: &'static str, class: &'static str, text: &str) -> &mut Self {
        self.open(tag, class).text(text).close(tag)
    }

    /// An element without an end of its own, as SVG's shapes are.
    pub fn shape(&mut self, tag: &'static str, attributes: &[(&'static str, &str)]) -> &mut Self {
        self.tag(tag, attributes);
        self.0.pop();
        self.raw("/>")
    }

    /// The points of a path: digits, and the letters of its commands.
    pub fn path(&mut self, class: &'static str, data: &Path) -> &mut Self {
        self.raw("<path class=\"").raw(class).raw("\" d=\"");
        self.0.push_str(&data.0);
        self.raw("\"/>")
    }

    pub fn add(&mut self, other: &Self) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

/// What stands in a path's `d`; made of numbers only.
#[derive(Debug, Default)]
pub struct Path(String);

impl Path {
    pub fn to(&mut self, command: char, x: f64, y: f64) {
        use std::fmt::Write as _;
        let _ = write!(self.0, "{command}{x:.1} {y:.1}");
    }

    /// A dot, where ends of lines are round.
    pub fn dot(&mut self, x: f64, y: f64) {
        self.to('M', x, y);
        self.0.push_str("h0");
    }
}

fn escape(text: &str, into: &mut String) {
    for letter in text.chars() {
        match letter {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\'' => into.push_str("&#39;"),
            _ => into.push(letter),
        }
    }
}

/// Of whatever width, in hundredths of it.
pub fn share(place: f64) -> String {
    format!("{:.2}%", place * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out() {
        let mut page = Markup::default();
        let hostile = "</p><script>alert('1')</script>\"&\u{202e}";
        page.tag("p", &[("title", hostile)])
            .text(hostile)
            .close("p");
        let escaped =
            "&lt;/p&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot;&amp;\u{fffd}";
        assert_eq!(
            page.into_string(),
            format!("<p title=\"{escaped}\">{escaped}</p>")
        );
    }
}
