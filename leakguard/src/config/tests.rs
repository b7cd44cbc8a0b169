use super::*;

fn patterns(names: &[&str]) -> Vec<Pattern> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

#[test]
fn the_defaults_enforce_every_class_and_keep_at_exit() {
    let config = Config::new(Layer::default()).unwrap();
    assert_eq!(config.mode(), Mode::Enforce);
    assert_eq!(config.on_exit(), OnExit::Keep);
    assert!(
        Class::ALL
            .iter()
            .all(|&class| config.blocked().contains(class))
    );
    assert_eq!(config.exempt(), ClassSet::default());
    assert!(config.extra_ports().is_empty());
    assert_eq!(config.events(), &Events::default());
    assert_eq!(config.metrics(), &Metrics::default());
    assert_eq!(config.rate_per_key(), 10);
    assert!(!config.tunnels_named());
}

#[test]
fn the_command_line_wins_and_its_lists_replace() {
    let file = Layer {
        mode: Some(Mode::Enforce),
        on_exit: Some(OnExit::Release),
        tunnel: Some(patterns(&["wg0", "tun0"])),
        local: Some(patterns(&["br0"])),
        block: Some(ClassSet::default().with(Class::Dns)),
        ..Layer::default()
    };
    let command_line = Layer {
        mode: Some(Mode::Observe),
        tunnel: Some(patterns(&["wg1"])),
        block: Some(ClassSet::default().with(Class::Dot)),
        ..Layer::default()
    };
    let config = Config::new(command_line.over(file)).unwrap();
    assert_eq!(config.mode(), Mode::Observe);
    assert_eq!(config.on_exit(), OnExit::Release);
    assert_eq!(config.tunnel(), patterns(&["wg1"]));
    assert_eq!(config.local(), patterns(&["br0"]));
    assert_eq!(config.blocked(), ClassSet::default().with(Class::Dot));
    assert!(config.exempt().contains(Class::Dns) && !config.exempt().contains(Class::Dot));
    assert!(config.tunnels_named());
}

#[test]
fn a_pattern_cannot_be_tunnel_and_something_else() {
    for role in [Role::Local, Role::Uplink] {
        let mut layer = Layer {
            tunnel: Some(patterns(&["wg0"])),
            ..Layer::default()
        };
        match role {
            Role::Local => layer.local = Some(patterns(&["br0", "wg0"])),
            _ => layer.uplink = Some(patterns(&["br0", "wg0"])),
        }
        let error = Config::new(layer).unwrap_err();
        assert_eq!(
            error,
            RuleError::TwoRoles {
                pattern: "wg0".into(),
                role
            }
        );
    }
}

#[test]
fn a_pattern_may_be_local_and_uplink_because_uplink_wins() {
    let layer = Layer {
        local: Some(patterns(&["br0"])),
        uplink: Some(patterns(&["br0"])),
        ..Layer::default()
    };
    assert!(Config::new(layer).is_ok());
}

#[test]
fn auto_stands_for_tunnels_only() {
    let layer = Layer {
        local: Some(patterns(&["auto"])),
        ..Layer::default()
    };
    assert_eq!(
        Config::new(layer),
        Err(RuleError::AutoNotTunnel { role: Role::Local })
    );
    let layer = Layer {
        uplink: Some(patterns(&["auto"])),
        ..Layer::default()
    };
    assert_eq!(
        Config::new(layer),
        Err(RuleError::AutoNotTunnel { role: Role::Uplink })
    );
    let layer = Layer {
        tunnel: Some(patterns(&["auto"])),
        ..Layer::default()
    };
    assert!(Config::new(layer).unwrap().tunnels_named());
}

#[test]
fn metrics_for_other_hosts_take_a_word_of_the_file() {
    let listen = Some("192.0.2.1:9853".parse().unwrap());
    let command_line = Layer {
        metrics: MetricsLayer {
            listen,
            ..MetricsLayer::default()
        },
        ..Layer::default()
    };
    let error = Config::new(command_line.clone()).unwrap_err();
    assert!(error.to_string().contains("public = true"), "{error}");
    let file = Layer {
        metrics: MetricsLayer {
            public: Some(true),
            ..MetricsLayer::default()
        },
        ..Layer::default()
    };
    let config = Config::new(command_line.over(file)).unwrap();
    assert_eq!(config.metrics().listen, listen);
}

#[test]
fn blocking_nothing_is_refused() {
    let layer = Layer {
        block: Some(ClassSet::default()),
        ..Layer::default()
    };
    assert_eq!(Config::new(layer), Err(RuleError::NothingBlocked));
}

#[test]
fn only_a_named_file_must_exist() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("absent.toml");
    assert_eq!(Source::Optional(path.clone()).read().unwrap(), None);
    let error = Source::Required(path).read().unwrap_err();
    assert!(
        matches!(error, ConfigError::File(FileError::Missing { .. })),
        "{error}"
    );
    assert_eq!(
        Source::named_or_default(None),
        Source::Optional("/etc/leakguard/leakguard.toml".into())
    );
    assert_eq!(
        Source::named_or_default(Some("x".into())),
        Source::Required("x".into())
    );
}
