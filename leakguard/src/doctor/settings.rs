//! Files of sections, keys and values, as systemd and `NetworkManager` have them.

use super::root::Root;

/// One line of such a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The file and the line.
    pub(super) place: String,
    pub(super) section: String,
    pub(super) key: String,
    pub(super) value: String,
}

impl Setting {
    /// The line as evidence.
    pub(super) fn evidence(&self) -> String {
        format!("{}: {}={}", self.place, self.key, self.value)
    }
}

/// Every setting of a text; lines that are none are left out.
pub(super) fn parse(path: &str, text: &str) -> Vec<Setting> {
    let mut section = "";
    let mut settings = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            section = name;
        } else if let Some((key, value)) = line.split_once('=') {
            settings.push(Setting {
                place: format!("{path}:{number}"),
                section: section.to_owned(),
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
            });
        }
    }
    settings
}

/// The settings of a file and its drop-ins, in the order in which they hold: of drop-ins with the same name the one in
/// the first directory counts.
pub(super) fn read(root: &Root, main: &str, directories: &[&str]) -> Vec<Setting> {
    let mut dropins: Vec<String> = Vec::new();
    for directory in directories {
        for path in root.files(directory, ".conf") {
            let name = name_of(&path);
            if !dropins.iter().any(|known| name_of(known) == name) {
                dropins.push(path);
            }
        }
    }
    dropins.sort_by(|one, other| name_of(one).cmp(name_of(other)));
    std::iter::once(main.to_owned())
        .chain(dropins)
        .filter_map(|path| Some(parse(&path, &root.read(&path)?)))
        .flatten()
        .collect()
}

/// The setting that holds: the last one.
pub(super) fn last<'a>(settings: &'a [Setting], section: &str, key: &str) -> Option<&'a Setting> {
    settings
        .iter()
        .rfind(|setting| setting.section == section && setting.key == key)
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_their_place() {
        let text = "# [no]\n[Resolve]\n DNS = 10.8.0.1 \n;DNS=1.1.1.1\nnonsense\n[Other]\nDNS=\n";
        let settings = parse("/f", text);
        assert_eq!(settings.len(), 2);
        assert_eq!(settings[0].evidence(), "/f:3: DNS=10.8.0.1");
        assert_eq!(last(&settings, "Other", "DNS").unwrap().value, "");
        assert_eq!(last(&settings, "Resolve", "LLMNR"), None);
    }

    #[test]
    fn the_last_drop_in_holds_and_the_first_directory_hides_the_next() {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("main.conf", "[A]\nk=main\n"),
            ("one/20.conf", "[A]\nk=one\n"),
            ("two/20.conf", "[A]\nk=hidden\n"),
            ("two/10.conf", "[A]\nk=two\n"),
        ] {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = Root::open(directory.path()).unwrap();
        let settings = read(&root, "/main.conf", &["/one", "/two"]);
        let values: Vec<&str> = settings
            .iter()
            .map(|setting| setting.value.as_str())
            .collect();
        assert_eq!(values, ["main", "two", "one"]);
    }
}
