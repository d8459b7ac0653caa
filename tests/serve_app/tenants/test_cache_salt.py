from serve_app.tenants.cache_salt import namespace_of, salt_within


def test_no_salt_of_a_client_is_that_of_another_tenant():
    namespaces = [namespace_of("alice"), namespace_of("bob"), ""]
    salts = ["", "x", "-", "--", "tenant:", namespaces[0], "-" + namespaces[0], namespaces[1] + "x"]
    assert len({salt_within(one, salt) for one in namespaces for salt in salts}) == len(namespaces) * len(salts)


def test_a_client_without_a_tenant_has_its_salt_as_it_is():
    assert salt_within("", "x") == "x"
