from vit_jax.report import page


def test_names_are_escaped():
  made = page.example(b'\x89PNG', 8, '<b>"cat"', 'a & b', 0.5, right=False)
  assert '<b>✗ a &amp; b</b> 50&nbsp;%<br>label: &lt;b&gt;&quot;cat&quot;<' in made
  assert 'alt="&lt;b&gt;&quot;cat&quot;"' in made and 'class="small"' in made
  assert page.table(['<'], [['&']]).count('&lt;') == 1
