use super::*;

/// The error for a text, as `line:column: message`.
fn error(text: &str) -> String {
    let ParseError { position, problem } = parse(text).unwrap_err();
    format!("{position}: {problem}")
}

fn patterns_of(names: &[&str]) -> Vec<Pattern> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn config(text: &str) -> Config {
    Config::new(parse(text).unwrap()).unwrap()
}

#[test]
fn every_key_is_read() {
    let layer = parse(
        r#"
        mode = "observe"
        on_exit = "release"
        [interfaces]
        tunnel = ["wg0", "tun*"]
        local = ["br-*"]
        uplink = ["eth0"]
        netlink_buffer = 65536
        [dns]
        block = ["dot", "dns", "dot"]
        ports = [5300, 1]
        "#,
    )
    .unwrap();
    let mut ports = ExtraPorts::default();
    ports.add(5300).unwrap();
    ports.add(1).unwrap();
    let expected = Layer {
        mode: Some(Mode::Observe),
        on_exit: Some(OnExit::Release),
        tunnel: Some(patterns_of(&["wg0", "tun*"])),
        local: Some(patterns_of(&["br-*"])),
        uplink: Some(patterns_of(&["eth0"])),
        netlink_buffer: Some(NetlinkBuffer::new(65536).unwrap()),
        block: Some(
            ["dns", "dot"]
                .iter()
                .map(|name| class_named(name).unwrap())
                .collect(),
        ),
        ports: Some(ports),
    };
    assert_eq!(layer, expected);
}

#[test]
fn what_a_file_leaves_out_is_not_set() {
    for text in ["", "# nothing\n", "[dns]\n[interfaces]\n"] {
        assert_eq!(parse(text).unwrap(), Layer::default());
    }
}

#[test]
fn the_example_is_the_defaults_and_a_tunnel() {
    let example = config(include_str!("../../../../dist/leakguard.toml"));
    let expected = Layer {
        tunnel: Some(patterns_of(&["wg0"])),
        ..Layer::default()
    };
    assert_eq!(example, Config::new(expected).unwrap());
}

#[test]
fn what_is_shown_reads_back_the_same() {
    for text in [
        "",
        "mode = 'observe'\non_exit = 'release'",
        "[interfaces]\ntunnel = ['auto', 'tun*']\nlocal = ['br[0-9]']\nuplink = ['eth0']",
        "[interfaces]\ntunnel = ['veth:vpn0', 'any:x']\nnetlink_buffer = 70000",
        "[dns]\nblock = ['netbios', 'dns']\nports = [1, 65535]",
    ] {
        let original = config(text);
        assert_eq!(config(&render(&original).unwrap()), original, "{text}");
    }
}

#[test]
fn unknown_keys_are_refused_and_the_known_ones_listed() {
    assert_eq!(
        error("mode = \"enforce\"\nkill_switch = 1\n"),
        "2:1: unknown field `kill_switch`, expected one of `mode`, `on_exit`, `interfaces`, `dns`"
    );
    assert_eq!(
        error("[kill_switch]\nmode = 'off'"),
        "1:2: unknown field `kill_switch`, expected one of `mode`, `on_exit`, `interfaces`, `dns`"
    );
    assert_eq!(
        error("[interfaces]\ntunnels = []"),
        "2:1: unknown field `tunnels`, expected one of `tunnel`, `local`, `uplink`, `netlink_buffer`"
    );
    assert_eq!(
        error("[dns]\n\nredirect = []"),
        "3:1: unknown field `redirect`, expected `block` or `ports`"
    );
}

#[test]
fn unknown_names_are_refused_and_the_known_ones_listed() {
    assert_eq!(
        error("mode = 'monitor'"),
        "1:8: unknown mode `monitor`; allowed: observe, enforce"
    );
    assert_eq!(
        error("on_exit = ''"),
        "1:11: unknown on_exit ``; allowed: keep, release"
    );
    assert_eq!(
        error("[dns]\nblock = [\"dns\",\n  \"doh\"]"),
        "3:3: unknown class `doh`; allowed: dns, dot, doq, mdns, llmnr, netbios"
    );
    assert!(error("[dns]\nblock = ['DNS']").starts_with("2:10: unknown class `DNS`"));
}

#[test]
fn wrong_types_say_what_is_wanted() {
    for (text, expected) in [
        (
            "mode = 3",
            "1:8: invalid type: integer `3`, expected a string",
        ),
        (
            "[mode.enforce]",
            "1:2: invalid type: map, expected a string",
        ),
        (
            "dns = 4",
            "1:7: invalid type: integer `4`, expected a table, such as [dns]",
        ),
        (
            "[[dns]]",
            "1:1: invalid type: sequence, expected a table, such as [dns]",
        ),
        (
            "[interfaces]\ntunnel = 'wg0'",
            "2:10: invalid type: string \"wg0\", expected a list in square brackets",
        ),
        (
            "[interfaces]\ntunnel = ['wg0', 3]",
            "2:18: invalid type: integer `3`, expected a string",
        ),
        (
            "[dns]\nports = ['a']",
            "2:10: invalid type: string \"a\", expected a port, 1 to 65535",
        ),
        (
            "[dns]\nports = [1.5]",
            "2:10: invalid type: floating point `1.5`, expected a port, 1 to 65535",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn malformed_text_is_located() {
    for (text, position) in [
        ("mode = \"enforce", "1:16:"),
        ("mode", "1:5:"),
        ("\n  = 1", "2:3:"),
        ("mode = 'observe'\nmode = 'enforce'", "2:1: duplicate key"),
        ("# ä\nx = \u{1}", "2:5:"),
    ] {
        assert!(
            error(text).starts_with(position),
            "{text:?}: {}",
            error(text)
        );
        assert!(!error(text).contains('\n'), "{text:?}: {}", error(text));
    }
}

#[test]
fn a_bad_pattern_is_located() {
    assert!(error("[interfaces]\ntunnel = ['wg0', '']").starts_with("2:18: "));
    assert!(error("[interfaces]\nlocal = ['a/b']").starts_with("2:10: "));
    assert!(error("[interfaces]\nlocal = ['a/b']").contains("`a/b`"));
}

#[test]
fn rules_are_located() {
    for (text, expected) in [
        (
            "[interfaces]\ntunnel = ['a']\nuplink = ['b', 'a']",
            "3:16: `a` is named as tunnel and as uplink; keep it in one of the two",
        ),
        (
            "[interfaces]\nlocal = ['a']\ntunnel = ['a']",
            "2:10: `a` is named as tunnel and as local; keep it in one of the two",
        ),
        (
            "[interfaces]\nlocal = ['auto']",
            "2:10: `auto` stands for tunnels and cannot be in `local`; name the interfaces",
        ),
        (
            "[interfaces]\nnetlink_buffer = 4096",
            "2:18: a netlink_buffer of 4096 bytes is not allowed; set it from 65536 to 536870912, or leave it out \
             for 8388608",
        ),
        (
            "[interfaces]\nnetlink_buffer = 1000000000000",
            "2:18: a netlink_buffer of 1000000000000 bytes is not allowed; set it from 65536 to 536870912, or leave it \
             out for 8388608",
        ),
        (
            "[dns]\nports = [1, 70000]",
            "2:13: 70000 is not a port; allowed: 1 to 65535",
        ),
        (
            "[dns]\nports = [0]",
            "2:10: 0 is not a port; allowed: 1 to 65535",
        ),
        (
            "[dns]\nports = [853]",
            "2:10: port 853 is judged as `dot` already; leave it out of `ports`",
        ),
        (
            "[dns]\nports = [99, 99]",
            "2:14: port 99 is given twice; name it once",
        ),
        (
            "[dns]\nports = [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,\n17]",
            "3:1: too many extra ports; allowed: 16",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
    assert!(error("[dns]\nblock = []").starts_with("2:9: `block` is empty"));
}

#[test]
fn no_text_makes_it_panic() {
    // Every prefix of a full file, cut at any character and continued by junk.
    let text = include_str!("../../../../dist/leakguard.toml");
    for (end, _) in text.char_indices() {
        for junk in ["", "\"", "[", "ä=", "\u{0}"] {
            drop(parse(&format!("{}{junk}", &text[..end])));
        }
    }
}
