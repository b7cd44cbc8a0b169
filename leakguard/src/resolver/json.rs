//! One key of a JSON object in a file of somebody else's, whose other bytes stay as they are.

use std::ops::Range;

use serde_json::{Error, Map, Value};

/// One key and its value, as they stand in the text.
#[derive(Debug)]
struct Member {
    key: String,
    /// From the quote of the key on.
    start: usize,
    value: Range<usize>,
}

/// Sets a key of an object; a text without anything is an empty one.
pub(super) fn set(text: &str, key: &str, value: &str) -> Result<String, Error> {
    if text.trim().is_empty() {
        return Ok(format!("{{\n  \"{key}\": {value}\n}}\n"));
    }
    let members = members(text)?;
    if let Some(member) = members.iter().find(|member| member.key == key) {
        return Ok(spliced(text, &member.value, value));
    }
    let open = text.find('{').map_or(0, |open| open + 1);
    Ok(if let Some(first) = members.first() {
        let indent = text.get(open..first.start).unwrap_or_default();
        spliced(text, &(open..open), &format!("{indent}\"{key}\": {value},"))
    } else {
        let close = text.rfind('}').unwrap_or(open);
        spliced(text, &(open..close), &format!("\n  \"{key}\": {value}\n"))
    })
}

/// Gives a key the value that it has in the original, or takes it out.
pub(super) fn restore(text: &str, original: &str, key: &str) -> Result<String, Error> {
    if !original.trim().is_empty()
        && let Some(member) = members(original)?
            .into_iter()
            .find(|member| member.key == key)
    {
        return set(text, key, original.get(member.value).unwrap_or("null"));
    }
    let members = members(text)?;
    let Some(at) = members.iter().position(|member| member.key == key) else {
        return Ok(text.to_owned());
    };
    let end = members.get(at).map_or(0, |member| member.value.end);
    let rest = text.get(end..).unwrap_or_default();
    let range = if let Some(before) = at.checked_sub(1).and_then(|before| members.get(before)) {
        // With the comma before it.
        before.value.end..end
    } else {
        let open = text.find('{').map_or(0, |open| open + 1);
        let after = if members.len() > 1 {
            rest.find(',').map_or(0, |comma| comma + 1)
        } else {
            rest.find('}').unwrap_or(0)
        };
        open..end + after
    };
    Ok(spliced(text, &range, ""))
}

fn spliced(text: &str, range: &Range<usize>, with: &str) -> String {
    let before = text.get(..range.start).unwrap_or_default();
    let after = text.get(range.end..).unwrap_or_default();
    [before, with, after].concat()
}

/// The keys of an object, after a check that it is one.
fn members(text: &str) -> Result<Vec<Member>, Error> {
    serde_json::from_str::<Map<String, Value>>(text)?;
    let bytes = text.as_bytes();
    let mut members = Vec::new();
    let mut at = text.find('{').map_or(0, |open| open + 1);
    while let Some(quote) = find(bytes, at, b'"') {
        let end = end_of_value(bytes, quote);
        let key = text.get(quote..end).unwrap_or_default();
        let colon = find(bytes, end, b':').unwrap_or(end);
        let start = skip_space(bytes, colon + 1);
        let stop = end_of_value(bytes, start);
        members.push(Member {
            key: serde_json::from_str(key)?,
            start: quote,
            value: start..stop,
        });
        at = stop;
    }
    Ok(members)
}

fn find(bytes: &[u8], from: usize, wanted: u8) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.iter()
        .position(|byte| *byte == wanted)
        .map(|at| from + at)
}

fn skip_space(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest
        .iter()
        .take_while(|byte| byte.is_ascii_whitespace())
        .count()
}

/// Where a value ends that begins here; the text is valid.
fn end_of_value(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (offset, byte) in bytes.get(start..).unwrap_or_default().iter().enumerate() {
        let here = start + offset;
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    in_string = false;
                    if depth == 0 {
                        return here + 1;
                    }
                }
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' if depth == 0 => return here,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return here + 1;
                }
            }
            _ if byte.is_ascii_whitespace() && depth == 0 => return here,
            _ => {}
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DNS: &str = r#"["10.8.0.1"]"#;

    #[test]
    fn other_bytes_stay_and_come_back() {
        for original in [
            "{}",
            "{ }\n",
            "{\"a\":1}",
            "{\n    \"log-driver\": \"journald\",\n    \"x\": { \"dns\": [\"}\"] }\n}\n",
            "{\n\t\"a\\\"b\": \"c\\\\\",\n\t\"t\": true }",
        ] {
            let with = set(original, "dns", DNS).unwrap();
            let read: Value = serde_json::from_str(&with).unwrap();
            assert_eq!(read["dns"][0], "10.8.0.1", "{with}");
            assert_eq!(set(&with, "dns", DNS).unwrap(), with);
            let without = restore(&with, original, "dns").unwrap();
            if original != "{ }\n" {
                assert_eq!(without, original);
            }
            assert_eq!(restore(&without, original, "dns").unwrap(), without);
        }
    }

    #[test]
    fn a_value_from_before_comes_back_and_later_changes_stay() {
        let original = "{\n  \"mtu\": 1400,\n  \"dns\": [ \"192.0.2.1\" ],\n  \"z\": null\n}";
        let with = set(original, "dns", DNS).unwrap();
        assert!(with.contains(DNS) && !with.contains("192.0.2.1"));
        assert_eq!(restore(&with, original, "dns").unwrap(), original);
        let edited = with.replace("1400", "1300");
        assert_eq!(
            restore(&edited, original, "dns").unwrap(),
            original.replace("1400", "1300")
        );
        let moved = "{\"a\": 1, \"dns\": [], \"b\": 2}";
        assert_eq!(restore(moved, "", "dns").unwrap(), "{\"a\": 1, \"b\": 2}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["[]", "{", "{} x", "{\"a\":1,}"] {
            assert!(set(text, "dns", DNS).is_err(), "{text}");
        }
        assert!(set("", "dns", DNS).unwrap().ends_with("}\n"));
    }
}
