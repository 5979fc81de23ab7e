// SPDX-License-Identifier: Apache-2.0
//! Results as one document, which `husk bench compare` and `husk bench report` read again.

use crate::bench::model::Results;

#[must_use]
pub fn render(results: &Results) -> String {
    let mut text = serde_json::to_string_pretty(results).expect("plain data is JSON");
    text.push('\n');
    text
}
