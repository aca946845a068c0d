#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use super::pattern::Glob;
use super::*;

fn rule(path: &str) -> Rule {
    Rule {
        path: path.into(),
        ..Rule::default()
    }
}

fn post<'a>(path: &'a str, model: Option<&'a str>) -> Request<'a> {
    Request {
        method: b"POST",
        path: path.as_bytes(),
        host: b"",
        model,
        header: &|_| None,
    }
}

fn found(rules: &[Rule], request: &Request<'_>) -> Answer {
    let table = RouteTable::new(rules).unwrap();
    let answer = table.find(request);
    let explained = table
        .explain(request)
        .into_iter()
        .find(|one| one.matched)
        .map(|one| one.rule);
    assert_eq!(
        matches!(answer, Answer::Rule(_)).then_some(answer),
        explained.map(Answer::Rule)
    );
    answer
}

#[test]
fn specific_paths_beat_general_ones() {
    let rules: Vec<Rule> = [
        "",
        "/*",
        "/v1/{a:path}",
        "/v1/{a}/b",
        "/v1/{a}/{b}",
        "/v1/a/{b}",
        "/v1/a/b",
    ]
    .map(rule)
    .into();
    for (path, answer) in [
        ("/v1/a/b", 6),
        ("/v1/a/c", 5),
        ("/v1/c/b", 3),
        ("/v1/c/d", 4),
        ("/v1/c/d/e", 2),
        ("/v1/", 2),
        ("/v1", 1),
        ("*", 0),
    ] {
        assert_eq!(found(&rules, &post(path, None)), Answer::Rule(answer), "{path}");
    }
}

#[test]
fn every_spelling_of_a_path_meets_its_rule() {
    let rules: Vec<Rule> = ["/v1/*", "/v1/admin/{x}", "/caf\u{e9}/a%20b"].map(rule).into();
    assert_eq!(found(&rules, &post("/v1/%61dmin/x", None)), Answer::Rule(1));
    assert_eq!(found(&rules, &post("/caf%C3%A9/a%20b", None)), Answer::Rule(2));
    assert_eq!(found(&rules, &post("/v1/admin%2Fx", None)), Answer::Rule(0));
    let table = RouteTable::new(&rules).unwrap();
    assert_eq!(table.params(1, b"/v1/admin/a%20b"), [("x", b"a b".to_vec())]);
    assert_eq!(table.params(0, b"/v1/a/b"), [("*", b"a/b".to_vec())]);
    assert_eq!(table.params(1, b"/v1/other"), []);
}

#[test]
fn a_spelling_that_may_be_read_as_the_path_of_another_rule_is_ambiguous() {
    let rules: Vec<Rule> = [
        "/v1/files/*",
        "/v1/*",
        "/V2/Big/{x}",
        "/V2/*",
        "/v1/jobs/{id}/",
        "/v1/models/private/*",
        "/v1/models/{name}",
        "/health",
    ]
    .map(rule)
    .into();
    let table = RouteTable::with_own(&rules, 7).unwrap();
    for path in [
        "/v1/Files/x",
        "/V1/files/x",
        "/v1/files;a/x",
        "/v1;b/files/x",
        "/v1/files./x",
        "/v1/files%20/x",
        "/v1/files%3Ba/x",
        "/v1/%2566iles/x",
        "/v1/x/%252e%252e/files/y",
        "/v1/;/files/x",
        "/v1/models/private%2Fa",
        "/v1/models/Private%2fa",
        "/v1/models/private%252Fa",
        "/v2/big/a",
    ] {
        let answer = table.find_safely(&post(path, None));
        // A path that no rule matches as written is not routed.
        assert!(
            matches!(answer, Answer::Ambiguous | Answer::NoPath),
            "{path}: {answer:?}"
        );
    }
    for (path, rule) in [
        ("/v1/files/x", 0),
        ("/v1/%66iles/x", 0),
        ("/v1/files/X;y/z.", 0),
        ("/v1/files/a/", 0),
        ("/v1/other", 1),
        ("/v1/Other/a.b/", 1),
        ("/v1/", 1),
        ("/V2/Big/a", 2),
        ("/V2/x", 3),
        ("/v1/jobs/a/", 4),
        ("/v1/models/Org%2FName", 6),
        ("/v1/models/a%2Fb%2fc", 6),
        ("/v1/models/private/a", 5),
        ("/health", 7),
    ] {
        assert_eq!(table.find_safely(&post(path, None)), Answer::Rule(rule), "{path}");
    }
}

#[test]
fn who_configures_a_spelling_means_it() {
    let rules: Vec<Rule> = [
        "/v1/a",
        "/v1/a/",
        "/v1/A",
        "/v1/b;c",
        "/v1/*",
        "/V1/{x}",
        "/v1/{x}",
        "/admin",
        "/admin/{x:path}",
    ]
    .map(rule)
    .into();
    let table = RouteTable::with_own(&rules, 7).unwrap();
    for (path, rule) in [
        ("/v1/a", 0),
        ("/v1/a/", 1),
        ("/v1/A", 2),
        ("/v1/b;c", 3),
        ("/V1/x", 5),
        ("/v1/x", 6),
        ("/admin/", 8),
        ("/admin/X;y", 8),
    ] {
        assert_eq!(table.find_safely(&post(path, None)), Answer::Rule(rule), "{path}");
    }
    for path in ["/v1/a;b", "/v1/%2561"] {
        assert_eq!(table.find_safely(&post(path, None)), Answer::Ambiguous, "{path}");
    }
}

#[test]
fn models_by_exact_prefix_and_glob() {
    let models = ["*", "g?t-4", "gpt-*", "gpt-4*", "gpt-4"];
    let mut rules: Vec<Rule> = models
        .iter()
        .map(|model| Rule {
            models: vec![(*model).into()],
            ..rule("/x")
        })
        .collect();
    rules.insert(0, rule("/x"));
    for (model, answer) in [("gpt-4", 5), ("gpt-4o", 4), ("gpt-5", 3), ("gut-4", 2), ("llama", 1)] {
        assert_eq!(found(&rules, &post("/x", Some(model))), Answer::Rule(answer), "{model}");
    }
    assert_eq!(found(&rules, &post("/x", None)), Answer::Rule(0));
    assert_eq!(found(rules.get(1..).unwrap(), &post("/x", None)), Answer::NoModel);
}

#[test]
fn a_rule_stands_where_the_pattern_that_matched_stands() {
    let models = |models: &[&str]| Rule {
        models: models.iter().map(|model| (*model).into()).collect(),
        ..rule("/x")
    };
    let rules = [models(&["a", "b*"]), models(&["bc", "*"])];
    assert_eq!(found(&rules, &post("/x", Some("bc"))), Answer::Rule(1));
    assert_eq!(found(&rules, &post("/x", Some("bd"))), Answer::Rule(0));
    assert_eq!(found(&rules, &post("/x", Some("c"))), Answer::Rule(1));
}

#[test]
fn hosts_methods_headers_priority() {
    let rules = [
        rule("/x"),
        Rule {
            host: "*.b.c".into(),
            ..rule("/x")
        },
        Rule {
            host: "*.a.b.c".into(),
            ..rule("/x")
        },
        Rule {
            host: "A.b.c".into(),
            methods: vec!["POST".into()],
            ..rule("/x")
        },
        Rule {
            host: "a.b.c".into(),
            headers: vec![("x-t".into(), "u*".into())],
            methods: vec!["POST".into()],
            ..rule("/x")
        },
        Rule {
            priority: 1,
            methods: vec!["DELETE".into()],
            ..rule("*")
        },
    ];

    let at = |method: &'static str, host: &'static str| Request {
        method: method.as_bytes(),
        path: b"/x",
        host: host.as_bytes(),
        model: None,
        header: &|_| None,
    };
    assert_eq!(found(&rules, &at("POST", "a.B.c")), Answer::Rule(3));
    assert_eq!(
        found(
            &rules,
            &Request {
                header: &|name| (name == b"x-t").then_some(&b"uv"[..]),
                ..at("POST", "a.b.c")
            }
        ),
        Answer::Rule(4)
    );
    assert_eq!(found(&rules, &at("GET", "a.b.c")), Answer::Rule(1));
    assert_eq!(found(&rules, &at("GET", "z.a.b.c")), Answer::Rule(2));
    assert_eq!(found(&rules, &at("GET", "b.c")), Answer::Rule(0));
    assert_eq!(found(&rules, &at("GET", ".b.c")), Answer::Rule(0));
    assert_eq!(found(&rules, &at("DELETE", "a.b.c")), Answer::Rule(5));
}

#[test]
fn the_answer_says_what_was_missing() {
    let rules = [Rule {
        methods: vec!["POST".into()],
        models: vec!["a".into()],
        ..rule("/x")
    }];
    assert_eq!(found(&rules, &post("/y", Some("a"))), Answer::NoPath);
    assert_eq!(
        found(
            &rules,
            &Request {
                method: b"post",
                ..post("/x", Some("a"))
            }
        ),
        Answer::NoMethod
    );
    assert_eq!(found(&rules, &post("/x", Some("b"))), Answer::NoModel);
    let table = RouteTable::new(&rules).unwrap();
    let why = table.explain(&post("/x", Some("b"))).remove(0).why;
    assert_eq!(why, "path matches /x, method POST, model `b` matches none of [`a`]");
}

#[test]
fn patterns_that_cannot_be_are_refused() {
    for path in [
        "v1", "/a*", "/*/a", "/{a", "/{a}b", "/{}", "/{1}", "/{a:int}", "/{a:}", "/{a}/{a}", "/a/../b", "/a?b",
    ] {
        let error = RouteTable::new(&[rule("/fine"), rule(path)]).unwrap_err();
        assert_eq!(error.rule, 1, "{path}");
    }
    for host in ["a:80", "*a", "a.*", "*.", "a b", "a."] {
        assert!(
            RouteTable::new(&[Rule {
                host: host.into(),
                ..rule("")
            }])
            .is_err(),
            "{host}"
        );
    }
    assert!(
        RouteTable::new(&[Rule {
            methods: vec!["A B".into()],
            ..rule("")
        }])
        .is_err()
    );
    assert!(
        RouteTable::new(&[Rule {
            headers: vec![("A".into(), "b".into())],
            ..rule("")
        }])
        .is_err()
    );
    assert!(
        RouteTable::new(&[Rule {
            models: vec![String::new()],
            ..rule("")
        }])
        .is_err()
    );
}

#[test]
fn globs() {
    for (glob, text, matches) in [
        ("*", "", true),
        ("", "", true),
        ("", "a", false),
        ("?", "\u{e9}", true),
        ("?", "", false),
        ("a*b*c", "aXbXbXc", true),
        ("a*b*c", "aXbXbX", false),
        ("*a", "ba", true),
        ("*a?", "baab", true),
        ("a**", "a", true),
    ] {
        assert_eq!(Glob::new(glob).matches(text.as_bytes()), matches, "{glob} {text}");
    }
}
